"""What people do in a simulated cloud, and what goes wrong: chosen by a seed or by Hypothesis."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from bus.directory import read_directory
from bus.transport import Faults
from enjin.canonical import parse
from enjin.errors import EnjinError
from enjin.host import random_bytes
from keys.keyring import Keyring
from keys.requests import prove, publics
from ring0.accounts import CreateAccount
from ring0.compartments import CreateCompartment
from ring0.enrolling import RequestKey, ShowKey
from ring0.keys import RevokeKey
from ring0.tiers import CreateTier
from ring1.accounts import CreateToken
from tests.sim import invariants
from tests.sim.cloud import RINGS, Cloud
from tests.sim.person import Person

HEALED_S: Final = 10.0
ANSWERED_S: Final = 60.0


class Acts:
    """One cloud and what is under way in it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.count = 0
        self.under_way: list[Any] = []
        self.revoked: list[Person] = []

    # -- wishes ---------------------------------------------------------------------------------------

    def wish(self, kind: int, who: int = 0) -> None:
        """Let somebody want something, beside what follows."""
        self.count += 1
        name = f"thing-{self.count}"
        person = self.cloud.persons[who % len(self.cloud.persons)]
        wishes: tuple[tuple[int, Callable[[], Any]], ...] = (
            (0, lambda: CreateCompartment(name=name)),
            (0, lambda: CreateAccount(name=name)),
            (0, lambda: CreateTier(name=name)),
            (1, lambda: CreateToken(name=name, secret_hash=f"{self.count:064x}")),  # type: ignore[arg-type]
            (1, lambda: CreateToken(name="often", secret_hash=f"{self.count:064x}")),  # type: ignore[arg-type]
        )
        ring, make = wishes[kind % len(wishes)]
        self.under_way.append(self.cloud.spawn(person.wish(ring, make())))

    def repeat(self, which: int) -> None:
        """Ask again, under the same request, for what was asked before: as a client does that was never answered."""
        person = self.cloud.operator
        if person.asked:
            ring, command, request = person.asked[which % len(person.asked)]
            self.under_way.append(self.cloud.spawn(person.wish(ring, command, request=request)))

    def enlist(self) -> None:
        """Give another person a key, and wait until it is granted."""
        self.count += 1
        self.cloud.run(self._enlist(f"person-{self.count}"))

    async def _enlist(self, name: str) -> None:
        cloud, operator = self.cloud, self.cloud.operator
        keyring = Keyring(cloud.foundation.cloud, random_bytes(32))
        asked = RequestKey(name=name, proof=prove(keyring, name), **publics(keyring))
        told = await operator.wish(0, asked)
        if not told.granted:
            return
        try:
            for _ in range(20):
                reply = await operator.ask(0, ShowKey(key=str(keyring.message.key_id)))
                if reply.ok:
                    break
            else:
                return
        except EnjinError:
            return
        line = parse(reply.result, dict[str, Any])
        root = read_directory(cloud.home).root
        cloud.enlist(Person(name, keyring, line["subject"], root, line["frame"], cloud.home))

    def revoke(self, which: int) -> None:
        """Revoke the key of somebody who is not the operator."""
        others = [person for person in self.cloud.persons[1:] if person not in self.revoked]
        if others:
            person = others[which % len(others)]
            self.revoked.append(person)
            self.under_way.append(self.cloud.spawn(self.cloud.operator.wish(0, RevokeKey(key=str(person.keyring.message.key_id)))))

    # -- faults -----------------------------------------------------------------------------------------

    def disturb(self, lose: float, repeat: float, reorder: float, slow_s: float) -> None:
        """Let the bus lose, repeat and reorder, and take up to *slow_s* for a delivery."""
        for network in self.cloud.networks.values():
            if not network.ordered:
                network.faults = Faults(lose, repeat, reorder)
                network.latency_s = (0.0005, 0.004 + slow_s)

    def cut(self, sender: str, receiver: str) -> None:
        """Let nothing pass from one process to another on any channel."""
        for network in self.cloud.networks.values():
            if not network.ordered:
                network.cut(sender, receiver)

    def crash(self, name: str) -> None:
        """Kill a process now."""
        self.cloud.kill(name)

    def crash_at(self, name: str, after: int, *, power: bool) -> None:
        """Kill a process when it has passed *after* more points of its I/O; at a power cut its unsynced bytes are torn."""
        self.cloud.doom(name, after, power=power)

    # -- the end ----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Heal everything, let it become equal within ten simulated seconds, let every wish be answered, and check what must hold."""
        cloud = self.cloud
        cloud.heal()
        cloud.run(cloud.until(lambda: invariants.equal(cloud), HEALED_S, "all equal after healing", lambda: invariants.differences(cloud)))
        cloud.run(cloud.until(lambda: all(task.done() for task in self.under_way), ANSWERED_S, "every wish is answered"))
        for task in self.under_way:
            task.result()
        self.under_way.clear()
        cloud.run(self._check())

    async def _check(self) -> None:
        """Check in one turn of the loop with the last look: nothing may be under way to the disk meanwhile."""
        cloud = self.cloud
        await cloud.until(
            lambda: invariants.equal(cloud), HEALED_S, "all equal after the last answer", lambda: invariants.differences(cloud)
        )
        invariants.check(cloud)


def walk(acts: Acts, chance: random.Random, steps: int) -> None:
    """Do *steps* things by chance, faults among them, and settle."""
    for _ in range(steps):
        step = chance.randrange(14)
        if step < 5:
            acts.wish(chance.randrange(5), chance.randrange(3))
        elif step == 5:
            acts.repeat(chance.randrange(64))
        elif step == 6 and len(acts.cloud.persons) < 4:
            acts.enlist()
        elif step == 7:
            acts.revoke(chance.randrange(3))
        elif step == 8:
            acts.disturb(chance.random() * 0.5, chance.random() * 0.5, chance.random() * 0.5, chance.random() * 0.5)
        elif step == 9:
            acts.cut(*chance.sample(RINGS, 2))
        elif step == 10:
            acts.crash(chance.choice(RINGS))
        elif step == 11:
            acts.crash_at(chance.choice(RINGS), chance.randint(1, 60), power=chance.random() < 0.5)
        elif step == 12 and chance.random() < 0.3:
            acts.settle()
        acts.cloud.advance(chance.choice((0.001, 0.01, 0.1, 1.0, 3.0)))
    acts.settle()
