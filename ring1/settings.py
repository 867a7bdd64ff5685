"""Settings of apps: sealed values, changed as a whole; a change is a release.

Owns ``config.set``, ``config.unset``, their listing, and the keys to which values are sealed. No value is ever in clear
here: who asks has sealed it to the compartment's key, and the daemon opens it when an instance starts. Pure decisions.

INV-SET-1: a version of settings never changes; a release keeps the version it started with.
INV-SET-2: keys that enjin gives every process itself (PORT, ENJIN_*) are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments.facts.apps import SealingKeyEnrolled, SettingsChanged
from compartments.facts.releases import ReleaseBegun
from compartments.rows_apps import App, Rollout, SealingKey, Settings
from compartments.world import World
from enjin.errors import Invalid, NotFound, Refused
from enjin.names import Name, shorten
from keys.sealed import is_sealed
from ring1 import rollouts
from ring1.tenancy import find_app, find_compartment, find_release, open_compartment, suggestion, where_app, where_compartment

KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
RESERVED: Final = re.compile(r"PORT|ENJIN_.*")
TOTAL_MAX_BYTES: Final = 65_536
KEYS_MAX: Final = 512
PUBLIC: Final = re.compile(r"[0-9a-f]{64}")


class BadKey(Invalid):
    """A setting's key is malformed or reserved."""

    code = "E-CFG-001"
    remedy = "use letters, digits and _, not starting with a digit; PORT and ENJIN_… are given by enjin"


class SettingsTooLarge(Refused):
    """An app's settings pass the limit."""

    code = "E-CFG-002"
    http_status = 413
    remedy = "keep large values in a file of the release"


class UnknownSetting(NotFound):
    """The app has no such setting."""

    code = "E-CFG-003"
    remedy = "`enjin config list` names the settings"


class NotSealed(Invalid):
    """A value does not have the form of a sealed one."""

    code = "E-CFG-004"
    remedy = "seal it to the compartment's key: `enjin config set` does"


class NoSealingKey(NotFound):
    """The compartment has no key yet to seal values to."""

    code = "E-CFG-005"
    remedy = "its daemon enrols one when it starts: try again in a moment"


class KeyShredded(Refused):
    """The compartment's secrets were shredded, and there is no key to seal new ones to."""

    code = "E-CFG-006"
    http_status = 410
    remedy = "`enjin compartment new-key` makes another one; what was sealed before stays unreadable"


class SetConfig(Command, kind="config.set"):
    """Set some of an app's settings, each value sealed; the app starts anew with them."""

    app: Name
    values: dict[str, str]


class UnsetConfig(Command, kind="config.unset"):
    """Remove some of an app's settings; the app starts anew without them."""

    app: Name
    keys: tuple[str, ...]


class EnrollSealingKey(Command, kind="config.enroll-key"):
    """Seal a compartment's settings to this public key (hex) from now on."""

    compartment: Name
    public: str


class ListConfig(Query, kind="config.list", kw_only=True):
    """An app's settings: keys and sealed values."""

    app: str


class ShowSealingKey(Query, kind="config.key"):
    """The public key to which a compartment's settings are sealed."""

    compartment: str = "default"


def set_config(wish: SetConfig, world: World, at: Moment) -> Iterator[Fact]:
    """Make a new version of the settings, and roll over to it where something is live.

    Raises:
        UnknownApp, KeyShredded, BadKey, NotSealed, SettingsTooLarge, OutOfRoom.
    """
    app = find_app(world, wish.app, at.asker)
    _usable_key(world, app.compartment)
    for key, value in wish.values.items():
        _check_key(key)
        if not is_sealed(value):
            raise NotSealed(f"the value of {key} is not sealed")
    if not wish.values:
        raise BadKey("no setting is named", hint="such as `enjin config set KEY=value`")
    values = current(world, app)
    after = values | wish.values
    if len(after) > KEYS_MAX or sum(len(key) + len(value) for key, value in after.items()) > TOTAL_MAX_BYTES:
        raise SettingsTooLarge(f"the settings of {app.name} would pass {KEYS_MAX} keys or {TOTAL_MAX_BYTES} bytes")
    yield from _change(world, app, wish.values, (), SetConfig.KIND, at)


def unset_config(wish: UnsetConfig, world: World, at: Moment) -> Iterator[Fact]:
    """Make a new version without some keys, and roll over to it where something is live. Raises: UnknownApp, UnknownSetting."""
    app = find_app(world, wish.app, at.asker)
    values = current(world, app)
    for key in wish.keys:
        if key not in values:
            raise UnknownSetting(f"app {app.name} has no setting {shorten(key)!r}", hint=suggestion(key, values))
    if not wish.keys:
        raise UnknownSetting("no setting is named")
    yield from _change(world, app, {}, tuple(sorted(set(wish.keys))), UnsetConfig.KIND, at)


def _usable_key(world: World, compartment: str) -> SealingKey | None:
    """Return the key of *compartment* (an id), if there is one yet. Raises: KeyShredded."""
    key = world.get(SealingKey, compartment)
    if key is not None and key.state != "in use":
        raise KeyShredded("the secrets of this compartment were shredded")
    return key


def _check_key(key: str) -> None:
    if KEY.fullmatch(key) is None:
        raise BadKey(f"the key {shorten(key)!r} is not of the form {KEY.pattern}")
    if RESERVED.fullmatch(key):
        raise BadKey(f"the key {key} is given by enjin")


def current(world: World, app: App) -> dict[str, str]:
    """Return an app's settings as they are now: key -> sealed value."""
    row = world.get(Settings, app.name, app.settings)
    return dict(row.values) if row is not None else {}


def _change(world: World, app: App, changed: dict[str, str], removed: tuple[str, ...], kind: str, at: Moment) -> Iterator[Fact]:
    """Yield the new version, and a release of the newest tree that runs with it."""
    version = app.last_settings + 1
    yield from rollouts.start_task(world, app, kind, at)
    yield SettingsChanged(app=app.name, version=version, base=app.settings, changed=changed, removed=removed, time=at.time)
    rollout = world.get(Rollout, app.name)
    origin = rollout.release if rollout is not None else app.live
    if not origin:
        yield from rollouts.end_task(world, at.request, "done", at, stage="set")
        return
    old, number = find_release(world, app.name, origin), app.last_release + 1
    yield ReleaseBegun(app=app.name, number=number, cause="settings", origin=origin, time=at.time, by=at.asker.id, request=at.request)
    new = rollouts.Next(number, old.processes, version, "settings", at.request)
    yield from rollouts.begin(world, app, new, rollouts.room_for(world, at), at)


def enroll_key(wish: EnrollSealingKey, world: World, at: Moment) -> Iterator[Fact]:
    """Note a compartment's public key; the same one again is no news. Raises: NoSuchCompartment, BeingDestroyed, NotSealed."""
    compartment = open_compartment(world, wish.compartment, at.asker)
    if PUBLIC.fullmatch(wish.public) is None:
        raise NotSealed("a sealing key is 64 hex digits")
    known = world.get(SealingKey, compartment.id)
    if known is not None and known.state != "in use":
        raise KeyShredded(f"the secrets of {compartment.name} were shredded")
    if known is None or known.public != wish.public:
        yield SealingKeyEnrolled(compartment=compartment.id, public=wish.public, time=at.time)


def place_of(compartment: str, app: str, key: str) -> str:
    """Return the place to which a value is bound when it is sealed: names of *compartment* and *app*, and the key."""
    return f"{compartment}/{app}/{key}"


def list_config(query: ListConfig, world: World, asker: Asker) -> object:
    """Return the sealed settings of an app and the place each is bound to. Raises: UnknownApp."""
    app = find_app(world, query.app, asker)
    compartment = find_compartment(world, app.compartment, asker).name
    values = [{"key": key, "sealed": value, "place": place_of(compartment, app.name, key)} for key, value in current(world, app).items()]
    return {"app": app.name, "compartment": compartment, "version": app.settings, "values": values}


def show_key(query: ShowSealingKey, world: World, asker: Asker) -> object:
    """Return a compartment's public key. Raises: NoSuchCompartment, NoSealingKey, KeyShredded."""
    compartment = find_compartment(world, query.compartment, asker)
    key = _usable_key(world, compartment.id)
    if key is None:
        raise NoSealingKey(f"compartment {compartment.name} has no sealing key yet")
    return {"compartment": compartment.name, "id": compartment.id, "public": key.public}


def _changed(wish: SetConfig | UnsetConfig, world: World, at: Moment) -> object:
    app = world.need(App, wish.app)
    released = world.get(Rollout, wish.app) is not None or bool(app.live)
    return {"app": wish.app, "version": app.settings, "release": app.last_release if released else 0, "operation": at.request}


TABLE: Final = (
    Rule(SetConfig, set_config, allow=Role.TENANT, compartment=where_app, result=_changed),
    Rule(UnsetConfig, unset_config, allow=Role.TENANT, compartment=where_app, result=_changed),
    Rule(EnrollSealingKey, enroll_key, allow=Role.SUPERVISOR),
    Question(ListConfig, list_config, allow=Role.TENANT, compartment=where_app),
    Question(ShowSealingKey, show_key, allow=Role.TENANT, compartment=where_compartment),
)
