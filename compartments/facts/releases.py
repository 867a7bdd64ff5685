"""Facts about releases of apps: begun, built, rolled out, live, failed, superseded, forgotten.

Owns how these rows change. Decides nothing. ``apps`` sums them up.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bus.messages import Fact
from compartments.facts.instances import take_uid
from compartments.rows_apps import App, AppStrategy, Build, Cause, Release, Rollout, Settings, UsedUid
from compartments.world import World


class ReleaseBegun(Fact, kind="release.begun", kw_only=True):
    """A release has a number. Its tree is to be built from *source*, or is that of *origin*."""

    app: str
    number: int
    cause: Cause
    source: str = ""
    revision: str = ""
    origin: int = 0
    time: int
    by: str = ""
    request: str = ""

    def apply(self, world: World) -> None:
        """Put the release; one with an origin has that one's tree and is built already."""
        release = Release(
            app=self.app,
            number=self.number,
            cause=self.cause,
            source=self.source,
            revision=self.revision,
            created=self.time,
            by=self.by,
            request=self.request,
        )
        if self.origin:
            old = world.need(Release, self.app, self.origin)
            release = replace(
                release,
                state="built",
                source=old.source,
                revision=old.revision,
                origin=old.origin or old.number,
                tree=old.tree,
                language=old.language,
                processes=old.processes,
                notes=old.notes,
            )
        world.put(release)
        world.put(replace(world.need(App, self.app), last_release=self.number))


class BuildWanted(Fact, kind="build.wanted", kw_only=True):
    """A node is wanted that builds a release."""

    node: str
    app: str
    compartment: str
    release: int
    uid: int
    strategy: AppStrategy
    source: str
    time: int

    def apply(self, world: World) -> None:
        """Put the build and take its uid."""
        world.put(
            Build(
                id=self.node,
                app=self.app,
                compartment=self.compartment,
                release=self.release,
                uid=self.uid,
                strategy=self.strategy,
                source=self.source,
                since=self.time,
            )
        )
        take_uid(world, self.uid)


class BuildEnded(Fact, kind="build.ended", kw_only=True):
    """A build's node is wanted no longer; its uid waits until *uid_free*."""

    node: str
    uid: int
    uid_free: int

    def apply(self, world: World) -> None:
        """Delete the build and reserve its uid."""
        world.delete(Build, self.node)
        world.put(UsedUid(uid=self.uid, until=self.uid_free))


class ReleaseBuilt(Fact, kind="release.built", kw_only=True):
    """A release's tree exists and says which processes it has."""

    app: str
    number: int
    tree: str
    language: str
    processes: dict[str, str]
    notes: tuple[str, ...] = ()

    def apply(self, world: World) -> None:
        """Change the release."""
        release = world.need(Release, self.app, self.number)
        world.put(
            replace(release, state="built", tree=self.tree, language=self.language, processes=self.processes, notes=self.notes, stage="")
        )


class RolloutBegun(Fact, kind="rollout.begun", kw_only=True):
    """A release is to serve at a new generation, with the settings of a version."""

    app: str
    release: int
    generation: int
    settings: int
    cause: Cause
    request: str
    time: int
    ready_ms: int

    def apply(self, world: World) -> None:
        """Put the roll-out; a release that is not live is now starting."""
        release = world.need(Release, self.app, self.release)
        state = release.state if release.state == "live" else "starting"
        world.put(replace(release, state=state, settings=self.settings))
        world.put(replace(world.need(App, self.app), last_generation=self.generation))
        world.put(
            Rollout(
                app=self.app,
                release=self.release,
                generation=self.generation,
                cause=self.cause,
                request=self.request,
                since=self.time,
                ready_ms=self.ready_ms,
            )
        )


class RolloutEnded(Fact, kind="rollout.ended", kw_only=True):
    """A roll-out did not reach its end: it failed, or a newer one took its place."""

    app: str
    generation: int

    def apply(self, world: World) -> None:
        """Delete the roll-out."""
        world.delete(Rollout, self.app)


class ReleaseLive(Fact, kind="release.live", kw_only=True):
    """A release serves, at a generation; the one before, where there was another, is superseded."""

    app: str
    number: int
    generation: int
    time: int

    def apply(self, world: World) -> None:
        """Change both releases and the app, and delete the roll-out."""
        app = world.need(App, self.app)
        if app.live and app.live != self.number and (before := world.get(Release, self.app, app.live)):
            world.put(replace(before, state="superseded"))
        release = world.need(Release, self.app, self.number)
        world.put(replace(release, state="live", lived=self.time, stage="", code="", why=""))
        world.put(replace(app, live=self.number, generation=self.generation))
        world.delete(Rollout, self.app)


class ReleaseFailed(Fact, kind="release.failed", kw_only=True):
    """A release will not go live, and why: the stage, the code and the end of what was printed."""

    app: str
    number: int
    stage: str
    code: str
    why: str = ""

    def apply(self, world: World) -> None:
        """Change the release."""
        release = world.need(Release, self.app, self.number)
        world.put(replace(release, state="failed", stage=self.stage, code=self.code, why=self.why))


class ReleaseSuperseded(Fact, kind="release.superseded", kw_only=True):
    """A release that was not live yet was overtaken by a newer wish."""

    app: str
    number: int

    def apply(self, world: World) -> None:
        """Change the release."""
        world.put(replace(world.need(Release, self.app, self.number), state="superseded"))


class ReleasesPruned(Fact, kind="releases.pruned", kw_only=True):
    """Old releases and versions of settings that nothing can go back to any more are forgotten."""

    app: str
    numbers: tuple[int, ...] = ()
    settings: tuple[int, ...] = ()

    def apply(self, world: World) -> None:
        """Delete the rows."""
        for number in self.numbers:
            world.delete(Release, self.app, number)
        for version in self.settings:
            world.delete(Settings, self.app, version)


FACTS: Final = (
    ReleaseBegun, BuildWanted, BuildEnded, ReleaseBuilt, RolloutBegun, RolloutEnded, ReleaseLive, ReleaseFailed, ReleaseSuperseded,
    ReleasesPruned,
)  # fmt: skip
