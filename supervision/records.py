"""What hands remembers of each node across its own death, and how it knows a process again.

Owns HOME/hands/nodes/<node>.json. A record is written before anything is made (phase ``starting``) and again when the node runs; hands that
starts anew finishes off what it finds ``starting`` and takes up again what is ``running``.

INV-REC-1: a process is ours only when boot, pid, start time and control groups all agree with the record; a bare pid is never signalled.

May import: enjin, supervision.{steps,cgroups}.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from enjin.host import boot_id, process_start_time, read_bounded, write_atomic
from supervision.cgroups import Groups
from supervision.steps import BadStep, NodeSpec

LIMIT: Final = 1 << 20


class Identity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a process is known: never by its pid alone. ``cgroups`` is {} where there are none (strategy process)."""

    pid: int
    started: int
    boot: str
    cgroups: dict[str, str] = {}


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node as hands last left it. ``helpers`` are processes that belong to it but are not inside, such as its way out."""

    spec: NodeSpec
    phase: Literal["starting", "running", "stopped"]
    identity: Identity | None = None
    helpers: dict[str, Identity] = {}
    closed: tuple[str, ...] = ()
    control: str = ""
    isolation: str = ""
    status: int | None = None


def identify(pid: int, groups: Groups | None) -> Identity | None:
    """Return the identity of the live process *pid*; None when it is gone."""
    where = groups.where(pid) if groups is not None else {}
    started = process_start_time(pid)
    return None if started is None else Identity(pid=pid, started=started, boot=boot_id(), cgroups=where)


def verify(identity: Identity | None, groups: Groups | None) -> Literal["ours", "displaced", "gone"]:
    """Say whether the process of *identity* still is the one recorded.

    ``displaced``: the same process, but someone moved it out of (some of) its control groups: it must be moved back before it is used.
    """
    if identity is None or identity.boot != boot_id() or process_start_time(identity.pid) != identity.started:
        return "gone"
    if groups is None or not identity.cgroups:
        return "ours"
    return "ours" if groups.where(identity.pid) == identity.cgroups else "displaced"


def hold(identity: Identity, groups: Groups | None) -> int | None:
    """Return a pidfd of the process, checked after it was opened so that the pid cannot have changed hands; None when it is gone."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return None
    if verify(identity, groups) == "gone":
        os.close(descriptor)
        return None
    return descriptor


def send(identity: Identity | None, groups: Groups | None, number: signal.Signals) -> bool:
    """Signal the process if it still is ours; return whether it was."""
    if identity is None or verify(identity, groups) != "ours":
        return False
    descriptor = hold(identity, groups)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def kill(identity: Identity | None) -> None:
    """End a node's init wherever it was moved: recorded by boot, pid and start time, and an init by its command line.

    A record that lies about anybody else's process ends nothing.
    """
    descriptor = hold(identity, None) if identity is not None else None
    if identity is None or descriptor is None:
        return
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if INIT in Path(f"/proc/{identity.pid}/cmdline").read_bytes():
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)


INIT: Final = b"/supervision/init/__main__.py"


class Records:
    """The directory of records."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, node: str) -> Path:
        return self.directory / f"{node}.json"

    def save(self, record: NodeRecord) -> None:
        """Write *record* so that a crash leaves the old or the new one."""
        write_atomic(self.path(record.spec.node), msgspec.json.encode(record), mode=0o600)

    def load(self, node: str) -> NodeRecord | None:
        """Return the record of *node*, or None.

        Raises:
            BadStep: The file is damaged.
        """
        try:
            return msgspec.json.decode(read_bounded(self.path(node), LIMIT), type=NodeRecord)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            hint = f"remove {self.path(node)} after stopping the node by hand"
            raise BadStep(f"the record of {node} is damaged: {error}", hint=hint) from error

    def nodes(self) -> list[str]:
        """Return the nodes that have a record, in order."""
        return sorted(entry.stem for entry in self.directory.glob("*.json") if not entry.name.startswith("."))

    def each(self) -> Iterator[NodeRecord]:
        """Yield every record that can be read; a damaged one concerns its own node only, and its next step says so."""
        for node in self.nodes():
            with contextlib.suppress(BadStep):
                record = self.load(node)
                if record is not None:
                    yield record

    def forget(self, node: str) -> None:
        """Remove the record."""
        with contextlib.suppress(FileNotFoundError):
            self.path(node).unlink()
