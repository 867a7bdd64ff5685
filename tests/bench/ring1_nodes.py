"""Emulated ring 1 nodes: many in one process, each a whole domain with a journal on disk, keys, a grant, a gate and a pipe of its own.

`python -m tests.bench.ring1_nodes` reads one line of JSON (`Told`), serves its share of the nodes on the descriptors that it inherited,
prints `ready`, and ends when its standard input does. Everything of a node but the machine around it is the product's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair
from typing import Any, NamedTuple

from bus.over_pipe import PipeTransport
from enjin import log
from ring1.renewing import Renewing
from tests.cloud import ROOT
from tests.compartments.parents import Node, Parents, Steady

PROCESSES = 4


class Told(NamedTuple):
    """What a process of nodes is told: where their journals go, when their grants began, and which node is at which descriptor."""

    folder: str
    began: int
    people: tuple[str, ...]
    nodes: dict[str, int]


def name_of(number: int) -> str:
    """Return the id of emulated node *number*."""
    return f"n-{number + 1:016x}"


def everybody(began: int, people: tuple[str, ...], nodes: int) -> Parents:
    """Return the same keys and grants in whichever process asks."""
    parents = Parents(Steady(), began)
    for name in people:
        parents.enrol(name, 0, 0, 2, daemon=False)
    for number in range(nodes):
        parents.enrol(name_of(number), 1, 2, 3)
    return parents


@contextlib.contextmanager
def crowd(folder: Path, began: int, people: tuple[str, ...], total: int) -> Iterator[dict[str, socket]]:
    """Run *total* nodes in a few processes; give our end of each one's pipe."""
    pairs = {name_of(number): socketpair(AF_UNIX, SOCK_SEQPACKET) for number in range(total)}
    running = []
    try:
        for share in range(PROCESSES):
            theirs = {node: pair[1].fileno() for number, (node, pair) in enumerate(pairs.items()) if number % PROCESSES == share}
            told = Told(str(folder), began, people, theirs)
            with open(folder / "nodes.log", "ab") as said:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.bench.ring1_nodes"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                    pass_fds=tuple(theirs.values()),
                )  # fmt: skip
            running.append(process)
            if process.stdin is not None:
                process.stdin.write(json.dumps(told._asdict()).encode() + b"\n")
                process.stdin.flush()
        for _, theirs_end in pairs.values():
            theirs_end.close()
        for process in running:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise AssertionError(f"emulated nodes did not come up: {(folder / 'nodes.log').read_text()[-600:]}")
        yield {node: pair[0] for node, pair in pairs.items()}
    finally:
        for process in running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for ours, _ in pairs.values():
            with contextlib.suppress(OSError):
                ours.close()


class NoAgents:
    """The agents of a node that runs nothing."""

    def all(self) -> list[Any]:
        """Return none."""
        return []


async def serve(told: Told, ending: asyncio.Event) -> None:
    """Be these nodes until *ending*."""
    made, agents = [], NoAgents()
    for node, descriptor in told.nodes.items():
        parents = everybody(told.began, told.people, 0)
        one = Node(parents, node, Path(told.folder), transport=PipeTransport(descriptor))
        for who in parents.people.values():
            one.trust.add(who.frame)
        await one.domain.serve(one.ours)
        renewing = Renewing(one.domain)
        one.domain.on_change.append(renewing.poke)
        made.append((one, asyncio.ensure_future(renewing.run(agents))))  # type: ignore[arg-type]
    print("ready", flush=True)
    await ending.wait()


def main() -> None:
    """Serve what standard input says."""
    log.configure(ring=1, component="bench")
    told = json.loads(sys.stdin.readline())

    async def run() -> None:
        ending, loop = asyncio.Event(), asyncio.get_running_loop()

        def wait() -> None:
            sys.stdin.read()
            loop.call_soon_threadsafe(ending.set)

        threading.Thread(target=wait, daemon=True).start()
        await serve(Told(**told), ending)

    asyncio.run(run())


if __name__ == "__main__":
    main()
