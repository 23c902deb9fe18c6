"""The mesh of a chaos run: discovery, cells and consumers as processes, each behind a gate of its own.

    alpha, beta      send                  pure-0, pure-1   one cell of two instances, receive
    solo             receives, alone       app              receives, and handles what it receives itself
    light-0, light-1 one cell whose instances have no volume: one that ends hands over to the other
    bystander        a cell of the name pure in another mesh: receives nothing

All processes are on this machine. A cell listens on 127.0.0.1 and tells others an address of its own of 127.0.0.0/8
(Linux has them all), at which its gate listens. The load talks to cells directly, their peers through the gates.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.gate import Gate, owner_among
from chaos.processes import ROOT, Process, StartError, free_port

HOST = "127.0.0.1"
MESH = "default"
OTHER_MESH = "other"
#: Consumers, and whose inbox each consumes.
CONSUMERS = {
    "eater-0": "pure-0",
    "eater-1": "pure-1",
    "eater-2": "solo-0",
    "eater-3": "solo-0",
    "eater-4": "light-0",
    "eater-5": "light-1",
}
#: Size of the small file systems, bytes.
SMALL_DISK = 256 * 1024 * 1024
#: Seconds between two looks at what has died by itself.
PAUSE = 0.3
#: What runs a cell.
PROGRAM = ("-m", "cellmesh", "cell", "--exit-with-parent")


@dataclass(frozen=True)
class Role:
    """One instance that is part of the mesh.

    Attributes:
        instance: its name.
        cell: of which cell.
        namespace: in which mesh.
        receives: whether messages are sent to it.
        sends: whether messages are sent by it.
        small_disk: whether its data are on a small file system, where that can be had.
        handles: whether a handler in its own process consumes its messages.
        ephemeral: whether its data go with it when it is replaced by another.

    """

    instance: str
    cell: str
    namespace: str = MESH
    receives: bool = False
    sends: bool = False
    small_disk: bool = False
    handles: bool = False
    ephemeral: bool = False


ROLES = (
    Role("alpha-0", "alpha", sends=True),
    Role("beta-0", "beta", sends=True),
    Role("pure-0", "pure", receives=True),
    Role("pure-1", "pure", receives=True, small_disk=True),
    Role("solo-0", "solo", receives=True, small_disk=True),
    Role("app-0", "app", receives=True, handles=True),
    Role("light-0", "light", receives=True, ephemeral=True),
    Role("light-1", "light", receives=True, ephemeral=True),
    Role("bystander-0", "pure", namespace=OTHER_MESH),
)


class Disk:
    """A small file system of its own, for a cell whose disk gets full. Needs the right to mount one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @staticmethod
    def mount(path: Path) -> Disk | None:
        """Make one; None where that is not allowed."""
        path.mkdir(parents=True)
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            return None
        options = ["-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs"]
        done = subprocess.run(["mount", *options, path], check=False, capture_output=True)
        return Disk(path) if done.returncode == 0 else None

    def fill(self, left: int) -> None:
        """Fill it, but for so many bytes."""
        there = os.statvfs(self.path)
        size = max(1, there.f_bavail * there.f_frsize - left)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", self.path], check=False)


class Clock:
    """The wall clock of one cell: that of the machine, moved by some seconds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.move(0)

    def move(self, seconds: float) -> None:
        """Move it, from now on and in later lives too."""
        data = struct.pack("q", int(seconds * 1e9))
        if self.file.exists():
            with self.file.open("r+b") as file:  # in place: the cell has it mapped
                file.write(data)
        else:
            self.file.write_bytes(data)


class Mesh:
    """All processes of a run.

    Args:
        directory: where data, logs and files go.
        program: what runs a cell, instead of the cell itself; for builds that break a promise.
        environ: variables for handlers in cells.

    """

    def __init__(self, directory: Path, environ: Mapping[str, str], program: Sequence[str] = ()) -> None:
        self.directory = directory
        #: How often each has died.
        self.deaths: Counter[str] = Counter()
        #: Those that have ended though nothing has killed them, and how.
        self.failures: list[str] = []
        #: Called with the name and the process id of one that has died, and when it certainly had.
        self.on_death: Callable[[str, int, float], None] | None = None
        self._running: set[str] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._keeper: asyncio.Task[None] | None = None
        self._environ = environ
        self.roles = {role.instance: role for role in ROLES}
        self.processes: dict[str, Process] = {}
        self.gates: dict[str, Gate] = {}
        self.disks: dict[str, Disk] = {}
        self.clocks: dict[str, Clock] = {}
        self._program = program or PROGRAM
        self._owner = owner_among(lambda: {each.pid: name for name, each in self.processes.items() if each.pid})
        self._taken: set[int] = set()
        self._shim = _compile(directory)
        self._add_discovery()
        for number, role in enumerate(ROLES, 2):
            self._add_cell(role, number)

    def _add_discovery(self) -> None:
        port = free_port(HOST, self._taken)
        command = [sys.executable, "-m", "cellmesh_operator.discovery", "--host", HOST, "--port", str(port)]
        self.processes["discovery"] = Process("discovery", command, {}, self.directory, (HOST, port))
        self._add_gate("discovery", 1, port)

    def _add_cell(self, role: Role, number: int) -> None:
        name, port = role.instance, free_port(HOST, self._taken)
        data = self.directory / "data" / name
        disk = Disk.mount(data) if role.small_disk else None
        if disk is not None:
            self.disks[name] = disk
        gate = self._add_gate(name, number, port)
        environ = {
            "CELLMESH_CELL_ID": role.cell,
            "CELLMESH_INSTANCE": name,
            "CELLMESH_NAMESPACE": role.namespace,
            "CELLMESH_PORT": str(port),
            "CELLMESH_ADVERTISE_HOST": gate.address[0],
            "CELLMESH_DATA_DIR": str(data),
            "CELLMESH_DURABILITY": "ephemeral" if role.ephemeral else "volume",
            "CELLMESH_DISCOVERY_URL": f"{self.gates['discovery'].url}/meshes/{role.namespace}",
        }
        if role.handles:
            environ |= {"CELLMESH_APP": "chaos.handler:cell", "CELLMESH_APP_DIR": str(ROOT), "CHAOS_INSTANCE": name}
            environ |= self._environ
        if self._shim is not None:
            self.clocks[name] = Clock(self.directory / f"{name}.clock")
            environ |= {"LD_PRELOAD": str(self._shim), "CHAOS_CLOCK": str(self.clocks[name].file)}
        command = [sys.executable, *self._program]
        self.processes[name] = Process(name, command, environ, self.directory, (HOST, port))

    def _add_gate(self, name: str, number: int, port: int) -> Gate:
        self.gates[name] = gate = Gate((f"127.0.1.{number}", port), (HOST, port), self._owner)
        return gate

    @property
    def namespace(self) -> str:
        """The mesh in which messages are sent."""
        return MESH

    @property
    def senders(self) -> list[str]:
        """Names of the instances that send."""
        return [name for name, role in self.roles.items() if role.sends]

    @property
    def receivers(self) -> list[str]:
        """Names of the instances that receive."""
        return [name for name, role in self.roles.items() if role.receives]

    def instance_at(self, url: str) -> str:
        """Return the name of the instance that has a URL; empty: none."""
        return next((name for name, gate in self.gates.items() if url.startswith(f"{gate.url}/")), "")

    def address(self, name: str) -> tuple[str, int]:
        """Return where a process itself listens."""
        address = self.processes[name].address
        if address is None:
            raise LookupError(name)
        return address

    async def start(self) -> None:
        """Start everything."""
        await self.up("discovery")
        await asyncio.gather(*[self.up(name) for name in self.roles])
        self._keeper = asyncio.create_task(self._keep())

    async def up(self, name: str) -> None:
        """Start a process and open its gate; from then on it is started again when it dies by itself."""
        async with self._locks[name]:
            await self._up(name)
            self._running.add(name)

    async def down(self, name: str) -> None:
        """Kill a process; connections to it are refused from then on."""
        self._running.discard(name)
        async with self._locks[name]:
            self.processes[name].signal(signal.SIGKILL)
            await self._ended(name)

    async def stop(self, name: str) -> int:
        """Stop a process in good order; return its exit code. Connections are refused when it has ended."""
        self._running.discard(name)
        async with self._locks[name]:
            self.processes[name].signal(signal.SIGTERM)
            await self._ended(name)
            return await self.processes[name].wait()

    async def replace(self, name: str) -> tuple[float, tuple[int, ...]]:
        """Stop an instance in good order, and throw its data away.

        Returns:
            when that was done, and how many pending, leased and unsent messages the instance said it left behind.

        """
        code = await self.stop(name)
        process = self.processes[name]
        said = re.findall(
            rf"{name} ends with (\d+) pending messages, (\d+) leased by clients and (\d+) to be sent", process.tail()
        )
        if code or not said:
            self.failures.append(f"{name} was told to end, did so with {code}, and said: {process.tail()}")
        shutil.rmtree(self.directory / "data" / name)
        return time.time(), tuple(map(int, said[-1])) if said else ()

    def check(self) -> None:
        """Raise what has ended the keeper, if it has ended."""
        if self._keeper is not None and self._keeper.done():
            self._keeper.result()

    async def _up(self, name: str) -> None:
        await self.processes[name].start()
        await self.gates[name].open()

    async def _ended(self, name: str) -> None:
        """Wait for the end of a process, and see to what follows of it."""
        pid = self.processes[name].pid
        await self.processes[name].wait()
        self.gates[name].shut()
        self.deaths[name] += 1
        if self.on_death is not None:
            self.on_death(name, pid, time.time())

    async def _keep(self) -> None:
        """Start what dies by itself again, after a moment."""
        while True:
            await asyncio.sleep(PAUSE)
            for name in list(self._running):
                async with self._locks[name]:
                    if name not in self._running or self.processes[name].alive:
                        continue
                    await self._ended(name)
                    code = await self.processes[name].wait()
                    if code != -signal.SIGKILL:
                        self.failures.append(f"{name} has ended by itself with {code}")
                        print(f"{self.failures[-1]}:\n{self.processes[name].tail()}", flush=True)
                    with contextlib.suppress(StartError):  # it has died again at once
                        await self._up(name)

    async def close(self) -> None:
        """Kill everything and clean up."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.gather(*[process.kill() for process in self.processes.values()])
        await asyncio.gather(*[gate.close() for gate in self.gates.values()])
        for disk in self.disks.values():
            disk.close()


def _compile(directory: Path) -> Path | None:
    """Build what moves clocks; None where there is no C compiler, or no Linux."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    shim = directory / "shim.so"
    source = Path(__file__).with_name("shim.c")
    done = subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", shim, source], check=False)
    return shim if done.returncode == 0 else None
