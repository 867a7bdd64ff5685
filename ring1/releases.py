"""Releases: built or not, live or not, gone back to, listed.

Owns what becomes of a release after it has a number. What was seen (a build's end, instances that are ready or are not)
comes as wishes of the daemon itself; whether it may count is decided here, from the world. Pure decisions.

INV-REL-1: at most one release of an app is live; a release that fails leaves the live one as it is.
INV-REL-2: a release goes live only when all the instances that must be ready are: the word of the wish alone is not enough.
INV-REL-3: what a build reports is bounded before it is believed: names, lines and sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments.addressing import OutOfRoom
from compartments.facts.apps import SettingsRestored
from compartments.facts.releases import ReleaseBegun, ReleaseBuilt, ReleaseFailed, RolloutEnded
from compartments.rows_apps import App, Build, Release, Rollout
from compartments.world import World
from enjin.errors import Conflict, Invalid, Refused, StepFailed
from enjin.names import Digest, Name, shorten
from ring1 import rollouts
from ring1.apps import end_build
from ring1.processes import NothingLive
from ring1.tenancy import UnknownRelease, find_app, find_release, where_app

PROCESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")
PROCESSES_MAX: Final = 32
LINE_MAX: Final = 4096
NOTES_MAX: Final = 20
WHY_MAX: Final = 4000


class NotBuilding(Conflict):
    """The release is not being built any more."""

    code = "E-REL-003"


class NotReady(Conflict):
    """Not all instances of the release are ready."""

    code = "E-REL-004"


class NothingBefore(Refused):
    """There is no release to go back to."""

    code = "E-REL-005"
    remedy = "`enjin releases` names the releases that are kept"


class BadBuild(Invalid):
    """What a build reported has impossible processes."""

    code = "E-REL-006"


class BuildFailed(StepFailed):
    """A release could not be built."""

    code = "E-REL-007"
    remedy = "the output above says why; mend it and push again"


class BuildTimedOut(StepFailed):
    """A build did not end in time."""

    code = "E-REL-008"
    remedy = "a build has 15 minutes; push with fewer or lighter dependencies"


class NoAnswer(StepFailed):
    """The app did not answer on its PORT in time."""

    code = "E-APP-011"
    remedy = "listen on 0.0.0.0 at the port in the environment variable PORT, and answer below 500 on /"


class Crashed(StepFailed):
    """The app's process ended again and again before it was ready."""

    code = "E-APP-012"
    remedy = "`enjin logs` shows what it printed"


class Built(Command, kind="release.built", kw_only=True):
    """A release's tree was built and sealed under its digest; its instances may start."""

    app: Name
    release: int
    tree: Digest
    language: str
    processes: dict[str, str]
    notes: tuple[str, ...] = ()


class Failed(Command, kind="release.failed", kw_only=True):
    """A release was not built, or its instances did not become ready: generation 0 stands for the build."""

    app: Name
    release: int
    generation: int = 0
    stage: str
    code: str
    text: str = ""


class Live(Command, kind="release.live"):
    """All instances that must be ready are: the release takes the route."""

    app: Name
    release: int
    generation: int


class Rollback(Command, kind="app.rollback"):
    """Go back to an older release: its tree and its settings, at once and without a build."""

    app: Name
    release: int = 0


class ListReleases(Query, kind="release.list", kw_only=True):
    """The releases of an app that are kept, newest first."""

    app: str


def built(wish: Built, world: World, at: Moment) -> Iterator[Fact]:
    """Note the tree and roll over to it; where there is no room for its instances the release has failed.

    Raises:
        UnknownRelease, NotBuilding, BadBuild.
    """
    app, release, build = _building(world, wish.app, wish.release)
    _check_processes(wish.processes)
    yield from end_build(build, at)
    notes = tuple(shorten(note, 500) for note in wish.notes[:NOTES_MAX])
    yield ReleaseBuilt(
        app=app.name, number=release.number, tree=wish.tree, language=shorten(wish.language, 40), processes=wish.processes, notes=notes
    )
    new = rollouts.Next(release.number, wish.processes, app.settings, "push", release.request)
    try:
        facts = list(rollouts.begin(world, app, new, rollouts.room_for(world, at), at))
    except (OutOfRoom, rollouts.OverQuota) as error:
        facts = [ReleaseFailed(app=app.name, number=release.number, stage="start", code=error.code, why=error.message)]
        facts += rollouts.end_task(world, release.request, "failed", at, stage="start", reason=f"{error.code}: {error.message}")
    yield from facts


def _building(world: World, name: str, number: int) -> tuple[App, Release, Build]:
    app = world.get(App, name)
    release = find_release(world, name, number)
    build = next((one for one in world.find(Build, app=name) if one.release == number), None)
    if app is None or build is None or release.state != "building":
        raise NotBuilding(f"release {number} of {name} is {release.state}, not building")
    return app, release, build


def _check_processes(processes: dict[str, str]) -> None:
    if not 1 <= len(processes) <= PROCESSES_MAX:
        raise BadBuild(f"a release has 1 to {PROCESSES_MAX} processes, not {len(processes)}")
    for name, line in processes.items():
        if PROCESS.fullmatch(name) is None:
            raise BadBuild(f"process {shorten(name)!r} is not of the form {PROCESS.pattern}")
        if not line.strip() or len(line) > LINE_MAX or "\0" in line or "\n" in line:
            raise BadBuild(f"the command of process {name} is empty, longer than {LINE_MAX} characters, or more than one line")


def failed(wish: Failed, world: World, at: Moment) -> Iterator[Fact]:
    """End a build or a roll-out that failed; what is live stays live.

    Raises:
        UnknownRelease: The app has no such release, or was destroyed.
        NotBuilding, RollingOut: That build or roll-out is over.
    """
    why = wish.text[-WHY_MAX:]
    if wish.generation == 0:
        app, release, build = _building(world, wish.app, wish.release)
        yield from end_build(build, at)
        request = release.request
    else:
        app, rollout = _rolling(world, wish.app, wish.release, wish.generation)
        release, request = find_release(world, app.name, rollout.release), rollout.request
        yield from rollouts.end_instances(rollouts.running(world, app.name, rollout.generation), "gone", at)
        yield RolloutEnded(app=app.name, generation=rollout.generation)
    if release.state != "live":
        yield ReleaseFailed(app=app.name, number=release.number, stage=wish.stage, code=wish.code, why=why)
    yield from rollouts.end_task(world, request, "failed", at, stage=wish.stage, reason=f"{wish.code}: {why}" if why else wish.code)


def _rolling(world: World, name: str, number: int, generation: int) -> tuple[App, Rollout]:
    app, rollout = world.get(App, name), world.get(Rollout, name)
    if app is None or rollout is None or (rollout.release, rollout.generation) != (number, generation):
        raise rollouts.RollingOut(f"release {number} of {name} is not being rolled out at generation {generation}")
    return app, rollout


def live(wish: Live, world: World, at: Moment) -> Iterator[Fact]:
    """Let a release serve whose instances are ready.

    Raises:
        RollingOut: That roll-out is over.
        NotReady: An instance that must be ready is not, as far as the world knows.
    """
    app, rollout = _rolling(world, wish.app, wish.release, wish.generation)
    waiting = [one for one in rollouts.gate(rollouts.running(world, app.name, rollout.generation)) if one.state != "ready"]
    if waiting:
        raise NotReady(f"{waiting[0].process}.{waiting[0].index} of {app.name} is {waiting[0].state}, not ready")
    settings = find_release(world, app.name, rollout.release).settings
    yield from rollouts.go_live(world, app, rollout.release, rollout.generation, settings, rollout.request, at)


def rollback(wish: Rollback, world: World, at: Moment) -> Iterator[Fact]:
    """Make a new release of an old one's tree and settings, and roll over to it.

    Raises:
        UnknownApp, UnknownRelease, NothingBefore, NothingLive, RollingOut, OutOfRoom.
    """
    app = find_app(world, wish.app, at.asker)
    old = _target(world, app, wish.release)
    number = app.last_release + 1
    yield from rollouts.start_task(world, app, Rollback.KIND, at)
    yield ReleaseBegun(app=app.name, number=number, cause="rollback", origin=old.number, time=at.time, by=at.asker.id, request=at.request)
    if old.settings != app.settings:
        yield SettingsRestored(app=app.name, version=old.settings)
    new = rollouts.Next(number, old.processes, old.settings, "rollback", at.request)
    restored = msgspec.structs.replace(app, settings=old.settings)
    yield from rollouts.begin(world, restored, new, rollouts.room_for(world, at), at)


def _target(world: World, app: App, number: int) -> Release:
    """Return the release to go back to: the one asked for, else the one that was live before the present one."""
    if number:
        release = find_release(world, app.name, number)
        if not release.tree or not release.lived:
            raise NothingBefore(f"release {number} of {app.name} was never live")
        if number == app.live:
            raise NothingBefore(f"release {number} of {app.name} is live")
        return release
    if not app.live:
        raise NothingLive(f"app {app.name} has no live release")
    rollout = world.get(Rollout, app.name)
    if rollout is not None:
        raise rollouts.RollingOut(f"release {rollout.release} of {app.name} is being rolled out", hint="name the release to go back to")
    before = [one for one in world.find(Release, app=app.name) if one.lived and one.number != app.live]
    if not before:
        raise NothingBefore(f"app {app.name} has no release before {app.live}")
    return max(before, key=lambda one: one.lived)


def list_releases(query: ListReleases, world: World, asker: Asker) -> object:
    """Return a row per kept release, newest first. Raises: UnknownApp."""
    app = find_app(world, query.app, asker)
    return [
        {
            "release": one.number,
            "state": one.state,
            "cause": one.cause,
            "origin": one.origin,
            "language": one.language,
            "revision": one.revision,
            "tree": one.tree,
            "processes": one.processes,
            "notes": one.notes,
            "settings": one.settings,
            "stage": one.stage,
            "code": one.code,
            "why": one.why,
            "created": one.created,
            "lived": one.lived,
            "by": one.by,
        }
        for one in sorted(world.find(Release, app=app.name), key=lambda one: -one.number)
    ]


def _rolled(wish: Rollback, world: World, at: Moment) -> object:
    number = world.need(App, wish.app).last_release
    return {"app": wish.app, "release": number, "origin": find_release(world, wish.app, number).origin, "operation": at.request}


TABLE: Final = (
    Rule(Built, built, allow=Role.SUPERVISOR),
    Rule(Failed, failed, allow=Role.SUPERVISOR),
    Rule(Live, live, allow=Role.SUPERVISOR),
    Rule(Rollback, rollback, allow=Role.TENANT, compartment=where_app, result=_rolled),
    Question(ListReleases, list_releases, allow=Role.TENANT, compartment=where_app),
)

__all__ = ["TABLE", "BuildFailed", "BuildTimedOut", "Built", "Crashed", "Failed", "Live", "NoAnswer", "Rollback", "UnknownRelease"]
