"""Where a request goes: from the apps' live instances to a running HAProxy, and back.

Owns the choice of slots and the order of live changes. ``place`` and ``changes`` are pure; ``Router`` acts, through the control
socket only: a push never reloads HAProxy. Does not start HAProxy (init does) and does not decide which instances are live.

INV-RTE-2: after ``apply``, the files on disk would start an HAProxy with the same map and the same wanted servers.
INV-RTE-3: a route gets its new servers before its old ones stop taking requests.
INV-RTE-4: a server is removed only when no request is in progress on it, or its deadline is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from enjin import host
from enjin.errors import Refused, StepFailed
from ring1.haproxy import SERVER_OPTIONS, SLOTS, BadRoute, Server, Settings, Slot, check_host, check_server, render
from ring1.haproxy_control import Control, SeenServer, parse_map, parse_servers, parse_sessions

DRAIN_S: Final = 10.0
POLL_S: Final = 0.02
COMMANDS_PER_LINE: Final = 40
"""HAProxy reads a command line into one buffer of 16 KiB."""
_SAID_ON_SUCCESS: Final = frozenset({"New server registered.", "Server deleted."})
_READY, _DRAIN = 0, 8


class NoFreeSlot(Refused):
    """The router serves as many apps as it can."""

    code = "E-RTE-005"
    remedy = f"destroy an app that is not needed; a router serves {SLOTS}"


class DrainFailed(StepFailed):
    """An old instance could not be taken out of the router."""

    code = "E-RTE-006"


class Route(msgspec.Struct, frozen=True):
    """An app, the names it answers to and its live instances (none: 503 until one is)."""

    app: str
    hosts: tuple[str, ...]
    servers: tuple[Server, ...] = ()


class Seen(msgspec.Struct, frozen=True):
    """What a running HAProxy has."""

    hosts: dict[str, int]
    servers: tuple[SeenServer, ...] = ()

    @property
    def draining(self) -> tuple[str, ...]:
        """Names of the servers that get no new requests."""
        return tuple(one.server.name for one in self.servers if one.admin != _READY)


class Applied(msgspec.Struct, frozen=True):
    """What ``apply`` did: servers added, servers that now drain, names that changed."""

    added: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def hosts_of(name: str, domains: Iterable[str] = ("localhost",)) -> tuple[str, ...]:
    """Return the names that the app *name* answers to."""
    return tuple(check_host(f"{name}.{domain}") for domain in domains)


def place(routes: Iterable[Route], seen: Seen) -> tuple[Slot, ...]:
    """Return the slots that *routes* need: a route stays where it is, a new one takes the lowest empty slot.

    Raises:
        NoFreeSlot: There are more routes than slots.
        BadRoute: A word is not of its form, or two routes claim one host or one server.
    """
    wanted = sorted(routes, key=lambda route: route.app)
    _check_distinct(wanted)
    taken: dict[int, str] = {}
    slots: dict[str, int] = {}
    for route in wanted:
        for name in route.hosts:
            number = seen.hosts.get(name)
            if number is not None and taken.setdefault(number, route.app) == route.app:
                slots.setdefault(route.app, number)
    # A slot in which another app's requests still drain is used last: the two would share its numbers.
    busy = {one.slot for one in seen.servers}
    free = sorted(set(range(1, SLOTS + 1)) - set(slots.values()), key=lambda number: (number in busy, number))
    placed = []
    for route in wanted:
        if route.app not in slots:
            if not free:
                raise NoFreeSlot(f"the router's {SLOTS} slots are taken")
            slots[route.app] = free.pop(0)
        number = slots[route.app]
        placed.append(Slot(number, tuple(sorted(route.hosts)), _numbered(number, route.servers, seen)))
    return tuple(sorted(placed))


def _check_distinct(routes: Sequence[Route]) -> None:
    hosts = [check_host(name) for route in routes for name in route.hosts]
    servers = [check_server(server).name for route in routes for server in route.servers]
    for what, names in (("app", [route.app for route in routes]), ("host", hosts), ("instance", servers)):
        if len(set(names)) != len(names):
            raise BadRoute(f"two routes claim one {what}: {next(name for name in names if names.count(name) > 1)}")


def _numbered(slot: int, servers: Iterable[Server], seen: Seen) -> tuple[Server, ...]:
    """Return *servers* with HAProxy's number of each: the one it has, else the lowest that nobody in the slot has."""
    present = {one.server.name: one.server for one in seen.servers if one.slot == slot}
    used = {one.number for one in present.values()}
    numbered = []
    for server in sorted(servers):
        known = present.get(server.name)
        if known is not None and (known.address, known.port) != (server.address, server.port):
            raise BadRoute(f"the instance {server.name} has moved; an instance's name is never used again")
        number = known.number if known is not None else min(set(range(1, len(used) + 2)) - used)
        used.add(number)
        numbered.append(msgspec.structs.replace(server, number=number))
    return tuple(numbered)


def changes(slots: Iterable[Slot], seen: Seen, map_path: str) -> list[str]:
    """Return the commands that take HAProxy from *seen* to *slots*; none when it is there already.

    New servers come first, then names, then what must go drains. What drains is removed later (``Router.drained``).
    """
    present = {(one.slot, one.server.name): one for one in seen.servers}
    wanted = {(slot.number, server.name): server for slot in slots for server in slot.servers}
    adding, moving, leaving = [], [], []
    for (number, name), server in wanted.items():
        where = f"b_slot{number}/{name}"
        one = present.get((number, name))
        if one is None:
            adding += [
                f"add server {where} {server.endpoint} {SERVER_OPTIONS} weight 1 id {server.number}",
                f"enable health {where}",
                f"enable server {where}",
                # Without this a server that has not been checked yet is down after one failed check instead of six.
                f"set server {where} health up",
            ]
        elif one.admin != _READY:
            adding += [f"set server {where} state ready"]
    hosts = {name: slot.number for slot in slots for name in slot.hosts}
    for name, number in sorted(hosts.items()):
        if name not in seen.hosts:
            moving.append(f"add map {map_path} {name} b_slot{number}")
        elif seen.hosts[name] != number:
            moving.append(f"set map {map_path} {name} b_slot{number}")
    moving += [f"del map {map_path} {name}" for name in sorted(set(seen.hosts) - set(hosts))]
    for (number, name), one in present.items():
        if (number, name) not in wanted and one.admin == _READY:
            leaving.append(f"set server b_slot{number}/{name} state drain")
    return adding + moving + leaving


class Router:
    """A running HAProxy that is kept as wanted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._control = Control(settings.control_path)
        self._changing = asyncio.Lock()

    def write(self, slots: Iterable[Slot] = ()) -> None:
        """Write the files of a fresh start; before the first one, and after each change.

        Raises:
            FileFailed: The disk refused; the old files stand.
        """
        files = render(self.settings, slots)
        host.write_atomic(self.settings.map_path, files.hosts.encode("ascii"), 0o644)
        host.write_atomic(self.settings.config_path, files.config.encode("ascii"), 0o644)

    async def observe(self) -> Seen:
        """Return what the running HAProxy has.

        Raises:
            RouterSilent: It does not answer.
        """
        hosts = parse_map(await self._control.ask([f"show map {self.settings.map_path}"]))
        return Seen(hosts, tuple(parse_servers(await self._control.ask(["show servers state"]))))

    async def ready(self, deadline_s: float) -> Seen:
        """Wait until HAProxy answers, and return what it has.

        Raises:
            RouterSilent: It did not answer within *deadline_s*.
        """
        until = host.monotonic_s() + deadline_s
        while True:
            try:
                return await self.observe()
            except StepFailed:
                if host.monotonic_s() > until:
                    raise
                await asyncio.sleep(POLL_S)

    async def apply(self, routes: Iterable[Route]) -> Applied:
        """Make the running HAProxy serve exactly *routes*, and the files on disk say the same.

        Doing it again changes nothing. What is in ``draining`` afterwards is waited for with ``drained``.

        Raises:
            NoFreeSlot, BadRoute: Nothing was changed.
            RouterSilent, RouterRefused: Something may have been changed; apply again.
        """
        async with self._changing:
            before = await self.observe()
            slots = place(routes, before)
            commands = changes(slots, before, self.settings.map_path)
            # The files first: an HAProxy that dies between the two comes up as wanted.
            await asyncio.to_thread(self.write, slots)
            for start in range(0, len(commands), COMMANDS_PER_LINE):
                await self._control.do(commands[start : start + COMMANDS_PER_LINE], _SAID_ON_SUCCESS)
        wanted = {server.name for slot in slots for server in slot.servers}
        present = {one.server.name for one in before.servers}
        hosts = {name: slot.number for slot in slots for name in slot.hosts}
        return Applied(
            added=tuple(sorted(wanted - present)),
            draining=tuple(sorted(present - wanted)),
            hosts=tuple(sorted(name for name in hosts.keys() | before.hosts.keys() if hosts.get(name) != before.hosts.get(name))),
        )

    async def drained(self, name: str, deadline_s: float = DRAIN_S) -> bool:
        """Wait until no request is in progress on the draining server *name*, then remove it.

        Returns:
            True when every request ended by itself, or there is no such server; False when the deadline cut some off.

        Raises:
            DrainFailed: It takes requests (it is wanted), or HAProxy keeps it.
        """
        found = next((one for one in (await self.observe()).servers if one.server.name == name), None)
        if found is None:
            return True
        if found.admin == _READY:
            raise DrainFailed(f"{name} is live: it cannot be removed")
        backend = f"b_slot{found.slot}"
        until = host.monotonic_s() + deadline_s
        clean = True
        while parse_sessions(await self._control.ask([f"show stat {backend} 4 -1"])).get(name, 0):
            if host.monotonic_s() > until:
                clean = False
                break
            await asyncio.sleep(POLL_S)
        async with self._changing:
            if any(one.server.name == name and one.admin == _READY for one in (await self.observe()).servers):
                raise DrainFailed(f"{name} became live again while it drained")
            await self._remove(backend, name)
        return clean

    async def _remove(self, backend: str, name: str) -> None:
        """Remove a server; HAProxy wants its connections gone first, and closes idle ones in its own time."""
        where = f"{backend}/{name}"
        await self._control.do([f"set server {where} state maint", f"shutdown sessions server {where}"])
        until = host.monotonic_s() + DRAIN_S
        while True:
            answer = (await self._control.ask([f"del server {where}"])).strip()
            if answer in ("Server deleted.", "No such server."):
                return
            if host.monotonic_s() > until:
                raise DrainFailed(f"the router keeps {name}: {answer[:120]}")
            await asyncio.sleep(POLL_S)
