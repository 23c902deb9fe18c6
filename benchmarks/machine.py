"""What the numbers were measured on: the machine, the versions, and what its disk can do."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw
import psutil

PACKAGES = (
    "uvicorn", "uvloop", "httptools", "msgspec", "fastapi", "starlette", "pydantic", "apsw", "aiohttp",
)  # fmt: skip


def describe(directory: Path) -> dict[str, str]:
    """Return the machine in a few lines: processor, cores, memory, kernel, disk, date."""
    return {
        "processor": _processor(),
        "cores": f"{os.cpu_count()}, shared by the load generator and everything measured",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "disk": _disk(directory),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, SQLite and the libraries that matter here."""
    found = {"python": platform.python_version(), "sqlite (apsw)": apsw.sqlite_lib_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _disk(directory: Path) -> str:
    """Return the file system of a directory and its device; what the device can do is measured, not told."""
    resolved = directory.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if resolved.is_relative_to(mount.mountpoint)]
    if not mounts:
        return "unknown"
    mount = max(mounts, key=lambda mount: len(mount.mountpoint))
    return f"{mount.fstype} on {Path(mount.device).name}"


class Foreign:
    """How much of the machine others take while something is measured: programs not ours, and the hypervisor."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.busy = _busy()
        self.children = _children()

    def share(self, servers: float) -> float:
        """Return the share of all CPU time since the beginning that neither servers nor children account for.

        ``servers`` are the CPU seconds of the measured processes; ended children are known here.
        """
        ours = servers + _children() - self.children
        there = (time.monotonic() - self.begin) * (os.cpu_count() or 1)
        return max(0.0, round((_busy() - self.busy - ours) / there, 4))


def _busy() -> float:
    times = psutil.cpu_times()._asdict()
    return float(sum(times.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fdatasync(directory: Path, times: int = 500) -> dict[str, float]:
    """Append 4 KiB and fdatasync, again and again: the least that a durable message costs here, in ms."""
    path = directory / "fdatasync"
    sync = getattr(os, "fdatasync", os.fsync)
    block = b"\0" * 4096
    samples = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(times):
            begin = time.perf_counter()
            os.write(fd, block)
            sync(fd)
            samples.append((time.perf_counter() - begin) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    samples.sort()
    return {
        "p50": round(statistics.median(samples), 4),
        "p90": round(samples[int(len(samples) * 0.9)], 4),
        "p99": round(samples[int(len(samples) * 0.99)], 4),
    }
