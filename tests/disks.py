"""A disk that loses power: records what SQLite writes and syncs, and rebuilds the files as they may be left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw


@dataclass
class Disk:
    """Every change of a file, in order; a file that was deleted and made anew is another one."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    lives: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str, name: str, *more: Any) -> None:
        """Write down one change."""
        self.events.append((kind, (name, self.lives.get(name, 0)), *more))

    def vfs(self, name: str) -> apsw.VFS:
        """Return a file system of SQLite that writes down what happens."""
        disk = self

        class File(apsw.VFSFile):
            def __init__(self, path: Any, flags: list[int]) -> None:
                super().__init__("unix", path, flags)
                self.name = Path(path if isinstance(path, str) else path.filename()).name

            def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
                disk.note("write", self.name, offset, bytes(data))
                super().xWrite(data, offset)

            def xTruncate(self, size: int) -> None:  # noqa: N802
                disk.note("truncate", self.name, size)
                super().xTruncate(size)

            def xSync(self, flags: int) -> None:  # noqa: N802
                super().xSync(flags)
                disk.note("sync", self.name)

        class Vfs(apsw.VFS):
            def __init__(self) -> None:
                super().__init__(name, "unix")

            def xOpen(self, path: Any, flags: list[int]) -> File:  # noqa: N802
                return File(path, flags)

            def xDelete(self, path: str, syncdir: bool) -> None:  # noqa: N802
                super().xDelete(path, syncdir)
                disk.lives[Path(path).name] = disk.lives.get(Path(path).name, 0) + 1

        return Vfs()

    def rebuild(self, start: Path, cut: int, keep: Callable[[], bool], target: Path) -> None:
        """Make the files as they may be after a power loss at event ``cut``.

        What was synced is there; of the rest, the sectors that ``keep`` says. A deletion is undone unless
        the file that came after it has been synced.
        """
        events = self.events[:cut]
        synced = {event[1]: index for index, event in enumerate(events) if event[0] == "sync"}
        files: dict[tuple[str, int], bytearray] = {
            (path.name, 0): bytearray(path.read_bytes()) for path in start.iterdir() if path.name != "lock"
        }
        for index, (kind, file, *more) in enumerate(events):
            if kind not in {"write", "truncate"}:
                continue
            durable = index < synced.get(file, -1)
            if kind == "truncate":
                if durable or keep():
                    data = files.setdefault(file, bytearray())
                    data[:] = data[: more[0]].ljust(more[0], b"\0")
                continue
            offset, piece = more
            for place in range(0, len(piece), 512):
                sector = piece[place : place + 512]
                if durable or keep():
                    data = files.setdefault(file, bytearray())
                    end = offset + place + len(sector)
                    if len(data) < end:
                        data.extend(bytes(end - len(data)))
                    data[offset + place : end] = sector
        newest: dict[str, int] = {}
        for name, life in files:
            if (name, life) in synced or life == 0:
                newest[name] = max(life, newest.get(name, 0))
        target.mkdir()
        for name, life in newest.items():
            (target / name).write_bytes(files[name, life])
