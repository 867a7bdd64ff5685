"""Finding a node's processes again: those that were moved out of its control groups, and who is whose parent.

May import: supervision.{cgroups,records,steps,workshop}.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from supervision.records import NodeRecord, identify
from supervision.steps import NodeFailed
from supervision.workshop import Workshop


class Scattered(NodeFailed):
    """Processes of a node cannot be moved back into its control groups."""

    code = "E-NOD-107"


async def gather(shop: Workshop, record: NodeRecord) -> NodeRecord:
    """Make lost control groups anew and move the node's processes back into them."""
    groups, identity, spec = shop.groups, record.identity, record.spec
    if groups is None or identity is None:
        return record
    groups.create(spec.node, spec.limits, spec.range if spec.purpose == "ring1" else None)
    members = {identity.pid, *groups.processes(spec.node), *_namespace_mates(identity.pid)}
    try:
        for pid in sorted(members):
            with contextlib.suppress(ProcessLookupError):
                groups.attach(spec.node, pid, spec.purpose == "ring1")
    except OSError as error:
        raise Scattered(f"processes of {spec.node} cannot be moved back into their control groups: {error.strerror}") from error
    again = identify(identity.pid, groups)
    record = msgspec.structs.replace(record, identity=again)
    shop.records.save(record)
    return record


def parent_of(pid: int) -> int:
    """Return the parent's pid; 0 when the process is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[1])


def _namespace_mates(pid: int) -> set[int]:
    """Return the processes in the pid namespace of *pid*, where that is not our own."""
    own = os.readlink("/proc/self/ns/pid")
    try:
        theirs = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return set()
    if theirs == own:
        return set()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == theirs:
                    found.add(int(name))
    return found
