"""Settings: sealed, versioned, bounded; a change is a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from compartments.rows_apps import App, Rollout, Settings
from enjin.errors import EnjinError
from enjin.names import Name
from keys.keyring import Keyring
from keys.sealing import open_value, seal_value
from ring1 import settings
from ring1.tenancy import UnknownApp
from tests.ring1.domain import BLUE_TENANT, DAEMON, TENANT, Domain, refuse, sealed

HELLO = Name("hello")
SEALED, OTHER = sealed("value"), sealed("another")


def change(domain: Domain, **values: str) -> None:
    """Set *values* and let the roll-out go live."""
    domain.do(settings.SetConfig(app=HELLO, values=values))
    domain.ready("hello")
    domain.live("hello")
    domain.drained("hello")


def test_a_change_is_a_release() -> None:
    """A new number with the same tree, and instances that start with the new version."""
    domain = Domain()
    domain.deployed("hello")
    tree = domain.release("hello", 1).tree
    change(domain, TOKEN=SEALED)
    release = domain.release("hello", 2)
    assert (release.cause, release.tree, release.state, release.settings) == ("settings", tree, "live", 1)
    assert domain.release("hello", 1).settings == 0


def test_versions_never_change() -> None:
    """INV-SET-1: an older version keeps its values while the present one gets others."""
    domain = Domain()
    domain.deployed("hello")
    change(domain, A=SEALED, B=SEALED)
    change(domain, A=OTHER)
    domain.do(settings.UnsetConfig(app=HELLO, keys=("B",)))
    versions = {row.version: row.values for row in domain.world.find(Settings, app="hello")}
    assert versions == {1: {"A": SEALED, "B": SEALED}, 2: {"A": OTHER, "B": SEALED}, 3: {"A": OTHER}}


def test_a_change_before_anything_is_live_makes_no_release() -> None:
    """The settings wait for the first release, which starts with them."""
    domain = Domain()
    domain.pushed("hello")
    domain.do(settings.SetConfig(app=HELLO, values={"A": SEALED}))
    assert domain.result["release"] == 0
    assert domain.world.get(Rollout, "hello") is None
    domain.built("hello", 1)
    assert domain.release("hello", 1).settings == 1


def test_a_change_during_a_rollout_goes_on_from_it() -> None:
    """The newest tree is kept: the roll-out is superseded by a release of its tree with the new settings."""
    domain = Domain()
    domain.deployed("hello")
    domain.pushed("hello")
    domain.built("hello", 2)
    domain.do(settings.SetConfig(app=HELLO, values={"A": SEALED}))
    assert domain.release("hello", 2).state == "superseded"
    assert domain.world.need(Rollout, "hello").release == 3
    assert domain.release("hello", 3).tree == domain.release("hello", 2).tree
    assert {one.generation for one in domain.instances("hello")} == {1, 3}


@pytest.mark.parametrize(("values", "error"), [
    ({"PORT": SEALED}, settings.BadKey), ({"ENJIN_APP": SEALED}, settings.BadKey), ({"9A": SEALED}, settings.BadKey),
    ({"A-B": SEALED}, settings.BadKey), ({"A=B": SEALED}, settings.BadKey), ({"": SEALED}, settings.BadKey), ({}, settings.BadKey),
    ({"A" * 129: SEALED}, settings.BadKey), ({"A\n": SEALED}, settings.BadKey), ({"A": ""}, settings.NotSealed),
    ({"A": "clear text"}, settings.NotSealed), ({"A": SEALED + "="}, settings.NotSealed), ({"A": "hunter22"}, settings.NotSealed),
    ({"A": SEALED[:148]}, settings.NotSealed), ({"A": sealed("QUFB" * 12_000)}, settings.SettingsTooLarge),
])  # fmt: skip
def test_bad_settings_are_refused(values: dict[str, str], error: type[EnjinError]) -> None:
    """INV-SET-2: reserved or malformed keys, values that are not sealed, and too much of them."""
    domain = Domain()
    domain.deployed("hello")
    if error is settings.SettingsTooLarge:
        domain.do(settings.SetConfig(app=HELLO, values={"FIRST": sealed("QUFB" * 1000)}))
    refuse(domain, settings.SetConfig(app=HELLO, values=values), error)


def test_unset_needs_what_is_there() -> None:
    """An unknown key is refused with the closest one."""
    domain = Domain()
    domain.deployed("hello")
    change(domain, DATABASE_URL=SEALED)
    error = refuse(domain, settings.UnsetConfig(app=HELLO, keys=("DATABSE_URL",)), settings.UnknownSetting)
    assert error.hint == "did you mean DATABASE_URL?"
    refuse(domain, settings.UnsetConfig(app=HELLO, keys=()), settings.UnknownSetting)


def test_other_tenants_reach_nothing() -> None:
    """Another compartment's settings can be neither read nor set."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    refuse(domain, settings.SetConfig(app=HELLO, values={"A": SEALED}), UnknownApp, BLUE_TENANT)
    with pytest.raises(UnknownApp):
        domain.ask(settings.ListConfig(app="hello"), BLUE_TENANT)


def test_a_value_is_sealed_to_its_place(tmp_path: Path) -> None:
    """What a client seals to the compartment's key at the place that is listed is what the daemon opens; no journal has it in clear."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    keyring = Keyring.create(tmp_path, "ab" * 32, issuer=False)
    with pytest.raises(settings.NoSealingKey):
        domain.ask(settings.ShowSealingKey(), TENANT)
    pair = keyring.curve
    enroll = settings.EnrollSealingKey(compartment="default", public=pair.public.hex())
    domain.do(enroll, DAEMON)
    assert domain.do(enroll, DAEMON) == []
    shown = domain.ask(settings.ShowSealingKey(), TENANT)
    place = settings.place_of(shown["compartment"], "hello", "TOKEN")
    domain.do(settings.SetConfig(app=HELLO, values={"TOKEN": seal_value(bytes.fromhex(shown["public"]), place, "s3cret-value")}), TENANT)
    row = domain.ask(settings.ListConfig(app="hello"), TENANT)["values"][0]
    assert (row["key"], row["place"]) == ("TOKEN", "default/hello/TOKEN")
    assert open_value(pair, row["place"], row["sealed"]) == "s3cret-value"
    assert b"s3cret-value" not in b"".join(domain.facts)
    refuse(domain, settings.EnrollSealingKey(compartment="default", public="xyz"), settings.NotSealed, DAEMON)


def test_settings_survive_a_push() -> None:
    """A later release starts with the settings as they are then."""
    domain = Domain()
    domain.deployed("hello")
    change(domain, A=SEALED)
    assert domain.release("hello", domain.deployed("hello")).settings == 1
    assert domain.world.need(App, "hello").settings == 1
