"""What hands answers.

May import: this package's checks.
"""

from __future__ import annotations

from typing import Literal

from supervision.steps.checks import Record


class Running(Record, frozen=True):
    """What is there of a node.

    ``control`` is the path, below hands' home, of the socket of the node's init. ``isolation`` says in words what separates it.
    ``missing`` names what was found gone: ``link``, ``address``, ``route``, ``cgroup:<controller>``, ``outgoing``, ``process``.
    """

    node: str
    generation: int
    state: Literal["running", "stopped", "gone"]
    strategy: str
    purpose: str
    pid: int = 0
    control: str = ""
    isolation: str = ""
    missing: tuple[str, ...] = ()
    status: int | None = None


class Seen(Record, frozen=True):
    """Answer to ``InspectAll``; *fabrics* are the bridges that are not as they were made."""

    nodes: tuple[Running, ...]
    fabrics: tuple[str, ...] = ()


class Done(Record, frozen=True):
    """Answer of a step that leaves nothing to say; ``changed`` is whether anything had to be done."""

    changed: bool = False


class Sealed(Record, frozen=True):
    """A tree that can never change again: *path* is below the root ``releases`` (or the target asked for)."""

    digest: str
    path: str
    bytes: int
    entries: int


class Verdict(Record, frozen=True):
    """Whether a strategy works here, and why (not)."""

    works: bool
    reason: str
    isolation: str = ""


class Probed(Record, frozen=True):
    """Answer to ``Probe``."""

    strategies: dict[str, Verdict]
