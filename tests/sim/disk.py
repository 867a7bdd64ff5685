"""One process's disk: what is left of it when the process is killed, and when the power goes.

A killed process leaves every byte that it wrote. At a power cut, what was not synced yet is there in part: of the write-ahead log's new
sectors each may be the new one, the old one or zeros, cut anywhere; a rename whose directory was not synced may not have happened.
Source: SQLite's "Atomic commit in SQLite" 3 (its log is synced before a commit returns); Pillai et al., OSDI 2014 (what may be reordered).
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Final

SECTOR: Final = 512
LOG: Final = "-wal"
LOCKS: Final = ("-shm", ".lock")


class Disk:
    """The files below *root*, without the folder *foreign* in it, which is another process's disk."""

    def __init__(self, root: Path, spare: Path, foreign: str = "") -> None:
        self.root, self._spare, self._foreign = root, spare, foreign
        self._logs: dict[Path, bytes] = {}
        self.held = False

    def hold(self) -> None:
        """Keep the files as they are now, to be put back by ``restore``."""
        shutil.rmtree(self._spare, ignore_errors=True)
        shutil.copytree(self.root, self._spare, symlinks=True, ignore=self._leave)
        self.held = True

    def _leave(self, folder: str, names: list[str]) -> set[str]:
        here = {self._foreign} if Path(folder) == self.root else set()
        return {name for name in names if name in here or name.endswith(LOCKS) or Path(folder, name).is_socket()}

    def mark(self) -> None:
        """Remember the logs as they are on disk: what is written from now on is not synced."""
        self._logs = {path.relative_to(self.root): path.read_bytes() for path in self.root.rglob(f"*{LOG}")}

    def tear(self, chance: random.Random) -> None:
        """Undo, in the files that are held, a part of what the logs have gained since ``mark``."""
        for path in self._spare.rglob(f"*{LOG}"):
            new, old = path.read_bytes(), self._logs.get(path.relative_to(self._spare), b"")
            if new == old:
                continue
            kept = bytearray()
            for at in range(0, len(new), SECTOR):
                fresh, stale = new[at : at + SECTOR], old[at : at + SECTOR]
                kept += fresh if fresh == stale else chance.choice((fresh, stale.ljust(len(fresh), b"\0"), fresh))
            cut = chance.randint(0, len(kept)) if chance.random() < 0.5 else len(kept)
            path.write_bytes(bytes(kept[: max(cut, len(old) if len(old) <= len(kept) else 0)]))

    def restore(self) -> None:
        """Put back what was held. Nothing may have a file open any more."""
        if not self.held:
            return
        for entry in self.root.iterdir():
            if entry.name == self._foreign:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.copytree(self._spare, self.root, symlinks=True, dirs_exist_ok=True)
        self.held = False
