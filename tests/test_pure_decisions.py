"""Deciding is pure: every decision of every ring, run twice with the world outside made to raise, gives the same bytes.

A ring takes part by `tests/<ring>/wishes.py` with `TABLE` (its closed table) and `examples()`, which yields
(world, wish, moment) with at least one wish that is granted for every command of the table.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import io
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus.messages import Command, Fact, Moment, Rule, Table, canonical

RINGS = ("ring0", "ring1", "ring2")
FORBIDDEN: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (builtins, ("open", "input")),
    (io, ("open",)),
    (os, ("open", "urandom", "getrandom", "listdir", "stat", "fork", "getpid", "getcwd")),
    (socket, ("socket", "create_connection", "socketpair", "getaddrinfo", "gethostname")),
    (sqlite3, ("connect",)),
    (subprocess, ("Popen",)),
    (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "clock_gettime", "clock_gettime_ns", "sleep")),
    (random, ("random", "randint", "getrandbits", "choice", "shuffle", "randbytes")),
    (secrets, ("token_bytes", "token_hex", "randbelow", "choice")),
    (uuid, ("uuid1", "uuid4")),
)


class Impure(BaseException):
    """A decision reached for the world outside; not an Exception, so that nothing on the way can swallow it."""


def _forbid(name: str) -> Callable[..., Any]:
    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise Impure(name)

    return refuse


@pytest.fixture
def sealed() -> Callable[[Callable[[], Any]], Any]:
    """A function that runs another one with the world outside made to raise, and with it alone."""

    def run(function: Callable[[], Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for module, names in FORBIDDEN:
                for name in names:
                    patch.setattr(module, name, _forbid(f"{module.__name__}.{name}"))
            return function()

    return run


def decide(rule: Rule, world: Any, wish: Command, moment: Moment) -> list[bytes]:
    """Return the facts of one decision as bytes."""
    facts = list(rule.decide(wish, world, moment))
    assert all(isinstance(fact, Fact) for fact in facts)
    return [canonical(fact) for fact in facts]


def samples(ring: str) -> tuple[Table, list[tuple[Any, Command, Moment]]]:
    """Return a ring's closed table and its sample wishes; skip a ring that has none yet."""
    if importlib.util.find_spec(f"tests.{ring}") is None or importlib.util.find_spec(f"tests.{ring}.wishes") is None:
        pytest.skip(f"{ring} has no sample wishes")
    module = importlib.import_module(f"tests.{ring}.wishes")
    return module.TABLE, list(module.examples())


@pytest.mark.parametrize("ring", RINGS)
def test_every_decision_is_pure(ring: str, sealed: Callable[[Callable[[], Any]], Any]) -> None:
    """Twice the same bytes, nothing outside touched, and the world as it was."""
    table, wishes = samples(ring)
    for world, wish, moment in wishes:
        rule = table.rule(wish.KIND)
        before = world.digest()
        # A third run first, outside the seal: what a decision imports when it first runs is loaded by then.
        expected = decide(rule, world, wish, moment)
        first = sealed(lambda rule=rule, world=world, wish=wish, moment=moment: decide(rule, world, wish, moment))
        second = sealed(lambda rule=rule, world=world, wish=wish, moment=moment: decide(rule, world, wish, moment))
        assert first == second == expected, wish.KIND
        assert first, f"the sample of {wish.KIND} makes nothing true"
        assert before == world.digest(), f"{wish.KIND} changed the world by deciding"


@pytest.mark.parametrize("ring", RINGS)
def test_every_command_has_a_sample(ring: str) -> None:
    """No command of the closed table escapes the test above."""
    table, wishes = samples(ring)
    assert {rule.command.KIND for rule in table.rules()} == {wish.KIND for _, wish, _ in wishes}


@pytest.mark.parametrize("ring", RINGS)
def test_a_decision_does_not_depend_on_history(ring: str) -> None:
    """A world that was restored from its snapshot decides the same bytes as the one that was folded."""
    table, wishes = samples(ring)
    for world, wish, moment in wishes:
        rule = table.rule(wish.KIND)
        assert decide(rule, world, wish, moment) == decide(rule, type(world).restore(world.snapshot()), wish, moment), wish.KIND


@pytest.mark.parametrize(
    "reach",
    [
        lambda: Path("/dev/null").read_bytes(),
        lambda: os.urandom(1),
        lambda: time.time(),
        lambda: socket.socket(),
        lambda: random.random(),
        lambda: sqlite3.connect(":memory:"),
    ],
)
def test_the_seal_bites(reach: Callable[[], Any], sealed: Callable[[Callable[[], Any]], Any]) -> None:
    """Something that reaches outside is caught."""
    with pytest.raises(Impure):
        sealed(reach)
