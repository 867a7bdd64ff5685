"""Builds as they run: watching each build's own init, and reading what the builder said.

Owns one watcher per build node. Reads the builder's log, which a tenant's code has written too: bounded, parsed
strictly, believed only about the tenant's own release.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from enjin import log
from enjin.errors import EnjinError, NotFound
from ring1.specs import BUILDER
from supervision.init_link import InitLink

LINES_MAX: Final = 10_000
TAIL_LINES: Final = 60
AGAIN_S: Final = 0.2


class NoSource(NotFound):
    """The source was not uploaded by whoever pushes it."""

    code = "E-REL-009"
    remedy = "upload it first: `enjin push` does"


class Report(msgspec.Struct, kw_only=True):
    """What a builder says at its end: ``build.json`` or ``error.json``, whichever fields it has."""

    language: str = ""
    processes: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    code: str = ""
    message: str = ""
    hint: str = ""
    tail: tuple[str, ...] = ()


class Builds:
    """The builds under way."""

    def __init__(self, home: Path, changed: Callable[[], None]) -> None:
        self._home, self._changed = home, changed
        self._log = log.get("builds")
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._reports: dict[str, tuple[Report, list[str]]] = {}
        self.statuses: dict[str, int] = {}

    def watch(self, nodes: dict[str, str]) -> None:
        """Watch exactly these build nodes: node -> path of its init's socket below home, empty when it runs no more."""
        for node in {*self._watchers, *self._reports} - nodes.keys():
            if node in self._watchers:
                self._watchers.pop(node).cancel()
            self.statuses.pop(node, None)
            self._reports.pop(node, None)
        for node, control in nodes.items():
            if control and node not in self._watchers:
                self._watchers[node] = asyncio.get_running_loop().create_task(self._follow(node, self._home / control))

    async def _follow(self, node: str, control: Path) -> None:
        while True:
            try:
                async with await InitLink.connect(control) as init:
                    view = await init.watch()
                    for service in view["services"]:
                        if service["name"] == BUILDER and not service["pid"] and service["status"] is not None:
                            return self._ended(node, service["status"])
                    async for event in init.events():
                        if event["event"] == "exited" and event.get("name") == BUILDER:
                            return self._ended(node, event["status"])
            except (EnjinError, OSError) as error:
                self._log.info("build.unreachable", node=node, error=error)
            await asyncio.sleep(AGAIN_S)

    def _ended(self, node: str, status: int) -> None:
        self.statuses[node] = status
        self._changed()

    async def read(self, node: str, control: str) -> tuple[Report, list[str]]:
        """Return what the builder of *node* reported and the last lines of what the build wrote, also after the node has ended.

        Raises:
            InitGone: The node's init ended before anything was read.
        """
        if node not in self._reports:
            self._reports[node] = await self._read(self._home / control)
        return self._reports[node]

    async def _read(self, control: Path) -> tuple[Report, list[str]]:
        lines: list[str] = []
        async with await InitLink.connect(control) as init:
            after = 0
            while len(lines) < LINES_MAX:
                part = (await init.logs(BUILDER, after))["lines"]
                if not part:
                    break
                lines += [line[2] for line in part]
                after = part[-1][0]
        said = {
            name: "".join(line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: "))
            for name in ("build.json", "error.json")
        }
        tail = [line for line in lines if not line.startswith(("build.json: ", "error.json: "))][-TAIL_LINES:]
        try:
            return msgspec.json.decode(said["build.json"] or said["error.json"] or "{}", type=Report), tail
        except msgspec.DecodeError:
            return Report(), tail

    async def close(self) -> None:
        """Stop watching."""
        for task in self._watchers.values():
            task.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
