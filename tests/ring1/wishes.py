"""One possible wish at least for every command of ring 1, each with a world in which it is granted and a moment.

`tests/test_pure_decisions.py` runs them all; a command without a sample fails there.
"""

from __future__ import annotations

from collections.abc import Iterator

from bus.messages import Asker, Command, Moment, Table, canonical, parse
from compartments.charter import ReceiveCharter
from compartments.destroying import EndCompartment
from compartments.revocations import Revoke
from compartments.rows_apps import Rollout
from compartments.shredding import RenewKey, ShredSecrets
from compartments.world import World
from enjin.names import Name
from keys.keyring import KeyPair
from keys.sealing import seal_value
from ring1.accounts import CreateToken, RevokeToken
from ring1.apps import Destroy, Push
from ring1.destroying import SawEnded
from ring1.instances import Drained, SawInstance
from ring1.processes import Restart, Scale
from ring1.releases import Built, Failed, Live, Rollback
from ring1.services import SERVICES
from ring1.settings import EnrollSealingKey, SetConfig, UnsetConfig, place_of
from ring1.shredding import SawShredded
from tests.ring1.domain import BLUE, DAEMON, DEFAULT, OPERATOR, TENANT, Domain, charter_frame, digest, make_charter, revocation

TABLE = Table.of(*SERVICES)
HELLO = Name("hello")
PAIR = KeyPair(bytes(32))
LINES = {"web": "serve", "worker": "work"}


def examples() -> Iterator[tuple[World, Command, Moment]]:
    """Yield (world, wish, moment) for every command."""
    yield _example(Domain(chartered=False), ReceiveCharter(frame=charter_frame(make_charter())), DAEMON)
    yield from _charters()
    yield from _accounts()
    yield from _apps()
    yield from _rollouts()
    yield from _settings()
    yield from _shredding()
    yield from _destroying()


def _shredding() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    public = PAIR.public.hex()
    domain.do(EnrollSealingKey(compartment=Name("default"), public=public), DAEMON)
    shred = ShredSecrets(compartment="default", confirm="default")
    yield _example(domain, shred, OPERATOR)
    domain.do(shred, OPERATOR)
    gone = SawShredded(compartment="default", public=public)
    yield _example(domain, gone, DAEMON)
    domain.do(gone, DAEMON)
    yield _example(domain, RenewKey(compartment="default"), OPERATOR)


def _destroying() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    domain.do(EnrollSealingKey(compartment=Name("blue"), public=PAIR.public.hex()), DAEMON)
    close = EndCompartment(compartment=BLUE, name="blue", stage="closing", asked="AA", reason="the customer left")
    yield _example(domain, close, DAEMON)
    domain.do(close, DAEMON)
    yield _example(domain, EndCompartment(compartment=BLUE, name="blue", stage="open"), DAEMON)
    condemn = EndCompartment(compartment=BLUE, name="blue", stage="condemned")
    yield _example(domain, condemn, DAEMON)
    domain.do(condemn, DAEMON)
    domain.do(SawShredded(compartment=BLUE, public=PAIR.public.hex()), DAEMON)
    yield _example(domain, SawEnded(compartment=BLUE), DAEMON)


def _charters() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    yield _example(domain, ReceiveCharter(frame=charter_frame(make_charter(version=2, router_port=9090))), DAEMON)
    yield _example(domain, Revoke(frame=revocation("ab" * 32)), DAEMON)


def _accounts() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    wish = CreateToken(name=Name("laptop"), secret_hash="ab" * 32, life_s=3600)
    yield _example(domain, wish, OPERATOR)
    yield _example(domain, wish, TENANT)
    domain.do(wish, TENANT)
    yield _example(domain, RevokeToken(token="laptop"), TENANT)


def _apps() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    push = Push(app=HELLO, source=digest("source"), revision="ab" * 20)
    yield _example(domain, push, TENANT)
    domain.deployed("hello", lines=LINES)
    yield _example(domain, push, TENANT)
    yield _example(domain, Push(app=Name("other"), compartment="blue", source=digest("x"), strategy="user"), OPERATOR)
    yield _example(domain, Destroy(app=HELLO), TENANT)
    yield _example(domain, Restart(app=HELLO), TENANT)
    yield _example(domain, Scale(app=HELLO, processes={"web": 3, "worker": 2}), TENANT)
    domain.deployed("hello", lines=LINES)
    yield _example(domain, Rollback(app=HELLO), TENANT)
    yield _example(domain, Rollback(app=HELLO, release=1), OPERATOR)


def _rollouts() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    domain.deployed("hello")
    number = domain.pushed("hello")
    built = Built(app=HELLO, release=number, tree=digest("tree"), language="python", processes=LINES, notes=("guessed",))
    yield _example(domain, built, DAEMON)
    yield _example(domain, Failed(app=HELLO, release=number, stage="build", code="E-BLD-001", text="no"), DAEMON)
    domain.built("hello", number)
    rollout = domain.world.need(Rollout, "hello")
    one = next(one for one in domain.instances("hello") if one.generation == rollout.generation)
    yield _example(domain, SawInstance(instance=one.id, generation=one.generation, state="ready"), DAEMON)  # type: ignore[arg-type]
    failed = Failed(app=HELLO, release=number, generation=rollout.generation, stage="health", code="E-REL-002", text="no answer")
    yield _example(domain, failed, DAEMON)
    domain.ready("hello")
    yield _example(domain, Live(app=HELLO, release=number, generation=rollout.generation), DAEMON)
    old = one
    domain.live("hello")
    old = next(found for found in domain.world.all(type(one)) if found.wanted != "running")
    yield _example(domain, Drained(instance=old.id), DAEMON)  # type: ignore[arg-type]


def _settings() -> Iterator[tuple[World, Command, Moment]]:
    domain = Domain()
    enroll = EnrollSealingKey(compartment=Name("default"), public=PAIR.public.hex())
    yield _example(domain, enroll, DAEMON)
    domain.do(enroll, DAEMON)
    domain.deployed("hello")
    sealed = seal_value(PAIR.public, place_of("default", "hello", "COLOUR"), "red")
    wish = SetConfig(app=HELLO, values={"COLOUR": sealed})
    yield _example(domain, wish, TENANT)
    domain.do(wish, TENANT)
    domain.ready("hello")
    domain.live("hello")
    domain.drained("hello")
    yield _example(domain, UnsetConfig(app=HELLO, keys=("COLOUR",)), TENANT)


def _example(domain: Domain, wish: Command, asker: Asker) -> tuple[World, Command, Moment]:
    """Return a copy of the domain's world as it is now, the wish as it would arrive, and the next moment."""
    assert asker is not TENANT or asker.compartment == DEFAULT
    return World.restore(domain.world.snapshot()), parse(canonical(wish), type(wish)), domain.moment(asker)
