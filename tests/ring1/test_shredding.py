"""Shredding: ordered, done, known to be done; nothing is sealed in between, and no new key comes unasked."""

from __future__ import annotations

import pytest

from compartments.lookup import NoSuchCompartment
from compartments.rows_apps import SealingKey
from compartments.shredding import RenewKey, ShowSecrets, ShredSecrets
from enjin.names import Name
from ring1.settings import EnrollSealingKey, KeyShredded, NoSealingKey, SetConfig, ShowSealingKey
from ring1.shredding import AlreadyShredded, NotConfirmed, NotShredded, SawShredded
from tests.ring1.domain import DAEMON, DEFAULT, Domain, refuse, sealed

FIRST, SECOND = "a" * 64, "b" * 64
SHRED = ShredSecrets(compartment="default", confirm="default")
SETTING = SetConfig(app=Name("hello"), values={"A": sealed("value")})


@pytest.fixture
def domain() -> Domain:
    """A domain whose compartment `default` has a key and an app with a setting."""
    made = Domain()
    made.do(EnrollSealingKey(compartment=Name("default"), public=FIRST), DAEMON)
    made.deployed("hello")
    made.do(SETTING)
    return made


def state(domain: Domain) -> str:
    """Return what the journal says of the key."""
    return domain.world.need(SealingKey, DEFAULT).state


def test_it_is_ordered_done_and_known(domain: Domain) -> None:
    """The order is on record before anything is destroyed; the same report again is no news; a replay says the same."""
    told = domain.ask(ShowSecrets(compartment="default"))
    assert (told["state"], told["public"], told["apps"]) == ("in use", FIRST, ["hello"])
    domain.do(SHRED)
    assert state(domain) == "condemned"
    gone = SawShredded(compartment="default", public=FIRST)
    assert len(domain.do(gone, DAEMON)) == 1
    assert state(domain) == "shredded"
    assert domain.do(gone, DAEMON) == []
    assert domain.replay().digest() == domain.world.digest()


@pytest.mark.parametrize("seen", [False, True])
def test_nothing_is_sealed_from_the_order_on(domain: Domain, seen: bool) -> None:
    """Neither key nor setting nor another enrolment is taken, whether the file is gone already or not."""
    domain.do(SHRED)
    if seen:
        domain.do(SawShredded(compartment="default", public=FIRST), DAEMON)
    refuse(domain, SETTING, KeyShredded)
    refuse(domain, EnrollSealingKey(compartment=Name("default"), public=SECOND), KeyShredded, DAEMON)
    refuse(domain, SHRED, AlreadyShredded)
    with pytest.raises(KeyShredded):
        domain.ask(ShowSealingKey(compartment="default"))


def test_a_new_key_only_on_an_explicit_wish(domain: Domain) -> None:
    """Not while the old one is in use or on its way out; then another one is enrolled and settings are taken again."""
    renew = RenewKey(compartment="default")
    refuse(domain, renew, NotShredded)
    domain.do(SHRED)
    refuse(domain, renew, NotShredded)
    domain.do(SawShredded(compartment="default", public=FIRST), DAEMON)
    domain.do(renew)
    assert domain.world.get(SealingKey, DEFAULT) is None
    domain.do(EnrollSealingKey(compartment=Name("default"), public=SECOND), DAEMON)
    assert domain.ask(ShowSealingKey(compartment="default"))["public"] == SECOND
    domain.do(SETTING)


def test_a_wrong_wish_changes_nothing(domain: Domain) -> None:
    """Another name as confirmation, no such compartment, no key yet, and a report about a key that nobody condemned."""
    refuse(domain, ShredSecrets(compartment="default", confirm="blue"), NotConfirmed)
    refuse(domain, ShredSecrets(compartment="absent", confirm="absent"), NoSuchCompartment)
    refuse(domain, ShredSecrets(compartment="blue", confirm="blue"), NoSealingKey)
    refuse(domain, SawShredded(compartment="default", public=FIRST), NotShredded, DAEMON)
    domain.do(SHRED)
    refuse(domain, SawShredded(compartment="default", public=SECOND), NotShredded, DAEMON)
