"""Where the product code syncs, sends, starts processes and renames, and the failpoint that stands before each: read from the code."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("enjin", "keys", "bus", "compartments", "supervision", "ring0", "ring1", "ring2", "console")

NOTES: Final = pytest.StashKey[list[str]]()

# Attributes that mean one thing wherever they stand, and calls that need their module's name to be one.
ATTRIBUTES = frozenset({
    "fsync", "fdatasync", "sync_file_range",
    "send", "sendall", "sendto", "sendmsg", "send_multipart", "send_fds", "sock_sendall", "sock_sendto", "publish", "writelines",
    "create_subprocess_exec", "create_subprocess_shell", "posix_spawn", "posix_spawnp", "fork", "forkpty", "Popen", "spawn",
})  # fmt: skip
QUALIFIED = frozenset({
    "os.sync", "os.rename", "os.renames", "os.replace", "os.link",
    "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
})  # fmt: skip


class Site(NamedTuple):
    """One statement that does such a thing, and the failpoints that stand directly before it."""

    path: str
    line: int
    call: str
    points: tuple[str, ...]

    @property
    def key(self) -> str:
        """What an exemption names: the path and the called function, which outlive a change of lines."""
        return f"{self.path} {self.call}"


def modules() -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every product module."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def point(statement: ast.stmt) -> str:
    """Return the name of the failpoint that *statement* is; empty when it is another statement."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "failpoint" and len(call.args) == 1:
        name = call.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return name.value
    return ""


def called(node: ast.AST) -> str:
    """Return how a site's call is written (``os.fsync``); empty when *node* is none."""
    function: Any = node.func if isinstance(node, ast.Call) else node  # a function that is handed over is called elsewhere
    if not isinstance(function, ast.Attribute):
        return ""
    text = ast.unparse(function)
    if text in QUALIFIED or (function.attr in ATTRIBUTES and (isinstance(node, ast.Call) or text.startswith("os."))):
        return text
    return ""


def sites(path: str, text: str) -> Iterator[Site]:
    """Yield each statement of a module that does such a thing."""
    yield from _of_block(path, ast.parse(text).body)


def _of_block(path: str, body: list[ast.stmt]) -> Iterator[Site]:
    before: list[str] = []
    for statement in body:
        if name := point(statement):
            before.append(name)
            continue
        found = [call for node in _own(statement) if (call := called(node))]
        if found:
            yield Site(path, statement.lineno, found[0], tuple(before))
        before = []
        for inner in _blocks(statement):
            yield from _of_block(path, inner)


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        if isinstance(inner := getattr(statement, field, None), list):
            yield inner
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def _own(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield the nodes of *statement* but those of the statements inside it."""
    waiting: list[ast.AST] = [
        node for node in ast.iter_child_nodes(statement) if not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case)
    ]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += ast.iter_child_nodes(node)


def points() -> list[tuple[str, str]]:
    """Return (name, path) of every failpoint of the product, in the order of the code."""
    return [
        (name, path)
        for path, text in modules()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.stmt) and (name := point(node))
    ]


def seed() -> str:
    """Return what chooses the faults of a run: the commit, or ``ENJIN_FAILPOINT_SEED``."""
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return os.environ.get("ENJIN_FAILPOINT_SEED", told[:12])


def say(config: pytest.Config, left_out: int, what: str) -> None:
    """Have the run say at its end how many faults it leaves out."""
    line = f"{left_out} {what} were not killed at in this run (ENJIN_FAILPOINT_SEED={seed()}); --all-failpoints does them all"
    config.stash.setdefault(NOTES, []).append(line)
