"""Releases: built, failed, live, gone back to, forgotten; and what clients see of operations."""

from __future__ import annotations

import pytest

from bus.messages import Command
from compartments.rows import Task
from compartments.rows_apps import App, Instance, Release, Rollout, Settings
from enjin.names import Name
from ring1 import operations, processes, releases, rollouts, settings
from ring1.instances import SawInstance
from ring1.tenancy import UnknownApp, UnknownRelease
from tests.ring1.domain import BLUE_TENANT, DAEMON, TENANT, Domain, digest, refuse, sealed

HELLO = Name("hello")


def fail(generation: int = 0, release: int = 2, stage: str = "build") -> releases.Failed:
    """Return the daemon's report that a release failed."""
    return releases.Failed(app=HELLO, release=release, generation=generation, stage=stage, code="E-REL-007", text="x" * 9000 + " the end")


def test_a_failed_build_leaves_the_live_release() -> None:
    """INV-REL-1: the release says why, with the end of the output; what is live stays live."""
    domain = Domain()
    domain.deployed("hello")
    domain.pushed("hello")
    request = domain.request
    domain.do(fail(), DAEMON)
    release = domain.release("hello", 2)
    assert (release.state, release.stage, release.code) == ("failed", "build", "E-REL-007")
    assert release.why.endswith(" the end")
    assert len(release.why) == releases.WHY_MAX
    assert domain.world.need(App, "hello").live == 1
    assert domain.world.need(Task, request).state == "failed"
    refuse(domain, fail(), releases.NotBuilding, DAEMON)


def test_a_release_that_does_not_become_ready_goes_without_a_trace_in_the_route() -> None:
    """Its instances end at once, the old ones were never touched."""
    domain = Domain()
    domain.deployed("hello")
    old = domain.instances("hello")
    domain.pushed("hello")
    domain.built("hello", 2)
    domain.do(fail(2, stage="health"), DAEMON)
    assert domain.instances("hello") == old
    assert {one.wanted for one in domain.world.find(Instance, release=2)} == {"gone"}
    assert domain.world.get(Rollout, "hello") is None
    assert domain.release("hello", 2).state == "failed"
    domain.drained("hello")
    assert domain.deployed("hello") == 3


def test_a_restart_that_fails_leaves_the_release_live() -> None:
    """The release serves at its old generation; only the restart has failed."""
    domain = Domain()
    domain.deployed("hello")
    domain.do(processes.Restart(app=HELLO))
    request = domain.request
    domain.do(fail(2, release=1, stage="health"), DAEMON)
    app = domain.world.need(App, "hello")
    assert (app.live, app.generation, domain.release("hello", 1).state) == (1, 1, "live")
    assert domain.world.need(Task, request).state == "failed"


def test_live_needs_every_web_instance_ready_and_no_other() -> None:
    """INV-REL-2: the world decides, not the wish; a worker that is not ready holds nothing up."""
    domain = Domain()
    domain.deployed("hello", lines={"web": "serve", "worker": "work"})
    domain.do(processes.Scale(app=HELLO, processes={"web": 2, "worker": 1}))
    domain.pushed("hello")
    domain.built("hello", 2, {"web": "serve", "worker": "work"})
    wish = releases.Live(app=HELLO, release=2, generation=2)
    web = [one for one in domain.instances("hello") if one.generation == 2 and one.process == "web"]
    domain.saw(web[0], "ready")
    error = refuse(domain, wish, releases.NotReady, DAEMON)
    assert f"web.{web[1].index}" in error.message
    domain.saw(web[1], "ready")
    domain.do(wish, DAEMON)
    refuse(domain, wish, rollouts.RollingOut, DAEMON)


def test_live_of_another_generation_is_refused() -> None:
    """A wish about a roll-out that is over changes nothing."""
    domain = Domain()
    domain.deployed("hello")
    domain.do(processes.Restart(app=HELLO))
    domain.ready("hello")
    for release, generation in ((1, 1), (2, 2), (1, 3)):
        refuse(domain, releases.Live(app=HELLO, release=release, generation=generation), rollouts.RollingOut, DAEMON)


@pytest.mark.parametrize("lines", [
    {}, {"web": ""}, {"web": " \t"}, {"web": "a\nb"}, {"web": "a\0b"}, {"web": "x" * 4097}, {"1web": "x"}, {"we b": "x"}, {"../x": "x"},
    {"w" * 32: "x"}, {f"p{number}": "x" for number in range(33)},
])  # fmt: skip
def test_impossible_builds_are_refused(lines: dict[str, str]) -> None:
    """INV-REL-3: processes are bounded in number, name and command before they are believed."""
    domain = Domain()
    domain.pushed("hello")
    wish = releases.Built(app=HELLO, release=1, tree=digest("t"), language="python", processes=lines)
    refuse(domain, wish, releases.BadBuild, DAEMON)


def test_reports_about_unknown_releases_are_refused() -> None:
    """A release that never was, or whose app is gone, is unknown."""
    domain = Domain()
    domain.pushed("hello")
    refuse(domain, fail(release=7), UnknownRelease, DAEMON)
    wish = releases.Built(app=Name("nobody"), release=1, tree=digest("t"), language="python", processes={"web": "x"})
    refuse(domain, wish, UnknownRelease, DAEMON)


def test_rollback_goes_to_what_was_live_before() -> None:
    """A new number, the old tree, no build; done twice it is where it began."""
    domain = Domain()
    domain.deployed("hello")
    domain.deployed("hello")
    trees = [domain.release("hello", number).tree for number in (1, 2)]
    for expected, tree in ((3, trees[0]), (4, trees[1])):
        domain.do(releases.Rollback(app=HELLO))
        assert domain.result["release"] == expected
        domain.ready("hello")
        domain.live("hello")
        domain.drained("hello")
        release = domain.release("hello", expected)
        assert (release.tree, release.state, release.cause) == (tree, "live", "rollback")
    assert domain.release("hello", 4).origin == 2


def test_rollback_brings_back_the_settings_too() -> None:
    """The settings of the release that is gone back to are the app's again, and the next change builds on them."""
    domain = Domain()
    domain.deployed("hello")
    for key in ("ONE", "TWO"):
        domain.do(settings.SetConfig(app=HELLO, values={key: sealed("value")}))
        domain.ready("hello")
        domain.live("hello")
        domain.drained("hello")
    domain.do(releases.Rollback(app=HELLO))
    app = domain.world.need(App, "hello")
    assert list(settings.current(domain.world, app)) == ["ONE"]
    assert domain.world.need(Rollout, "hello").release == 4
    assert domain.release("hello", 4).settings == 1
    domain.do(settings.SetConfig(app=HELLO, values={"THREE": sealed("value")}))
    assert list(settings.current(domain.world, domain.world.need(App, "hello"))) == ["ONE", "THREE"]
    assert domain.world.need(App, "hello").settings == 3


def test_rollback_refuses_what_is_not_there() -> None:
    """No release before, an unknown one, one that never lived, the live one, another tenant's app, or during a roll-out."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    refuse(domain, releases.Rollback(app=HELLO), releases.NothingBefore)
    refuse(domain, releases.Rollback(app=HELLO, release=9), UnknownRelease)
    refuse(domain, releases.Rollback(app=HELLO, release=1), releases.NothingBefore)
    refuse(domain, releases.Rollback(app=HELLO), UnknownApp, BLUE_TENANT)
    domain.pushed("hello")
    domain.do(fail(), DAEMON)
    refuse(domain, releases.Rollback(app=HELLO, release=2), releases.NothingBefore)
    domain.deployed("hello")
    domain.do(processes.Restart(app=HELLO))
    refuse(domain, releases.Rollback(app=HELLO), rollouts.RollingOut)
    domain.do(releases.Rollback(app=HELLO, release=1))
    assert domain.world.need(Rollout, "hello").release == 4


def test_ten_releases_are_kept() -> None:
    """The oldest are forgotten with their settings, the live one never, and what is kept can be gone back to."""
    domain = Domain()
    for number in range(1, 15):
        domain.deployed("hello")
        domain.do(settings.SetConfig(app=HELLO, values={"N": sealed(str(number))}))
        domain.ready("hello")
        domain.live("hello")
        domain.drained("hello")
    kept = [release.number for release in domain.world.find(Release, app="hello")]
    assert len(kept) == rollouts.RELEASES_KEPT + 1
    assert kept[-1] == domain.world.need(App, "hello").live == 28
    needed = {release.settings for release in domain.world.find(Release, app="hello")}
    assert {row.version for row in domain.world.all(Settings)} == needed
    domain.do(releases.Rollback(app=HELLO, release=kept[0]))
    domain.ready("hello")
    domain.live("hello")
    restored = domain.release("hello", domain.world.need(App, "hello").live)
    assert domain.world.get(Settings, "hello", restored.settings) is not None


def test_operations_are_followed_by_request() -> None:
    """building, starting with what is waited for, done; another tenant learns nothing of it."""
    domain = Domain()
    domain.pushed("hello", TENANT)
    request = domain.request
    query = operations.ShowOperation(request=request)
    assert domain.ask(query, TENANT)["stage"] == "building"
    domain.built("hello", 1)
    seen = domain.ask(query, TENANT)
    assert (seen["state"], seen["stage"], seen["waiting"], seen["release"]) == ("running", "starting", ["web.1"], 1)
    domain.ready("hello")
    domain.live("hello")
    seen = domain.ask(query, TENANT)
    assert (seen["state"], seen["stage"], seen["url"]) == ("done", "live", "http://hello.localhost:8080/")
    with pytest.raises(operations.UnknownOperation):
        domain.ask(query, BLUE_TENANT)
    assert domain.ask(operations.ListOperations(), BLUE_TENANT) == []
    assert [row["id"] for row in domain.ask(operations.ListOperations(app="hello"), TENANT)] == [request]


def test_old_operations_are_forgotten() -> None:
    """An app has a bounded number of ended operations."""
    domain = Domain()
    domain.deployed("hello")
    for count in range(rollouts.TASKS_KEPT + 5):
        domain.do(processes.Scale(app=HELLO, processes={"web": 1 + count % 2}))
    assert len(domain.world.find(Task, subject="hello")) == rollouts.TASKS_KEPT


def test_releases_are_listed_newest_first() -> None:
    """With their state, cause and why they failed."""
    domain = Domain()
    domain.deployed("hello")
    domain.pushed("hello")
    domain.do(fail(), DAEMON)
    rows = domain.ask(releases.ListReleases(app="hello"))
    assert [(row["release"], row["state"]) for row in rows] == [(2, "failed"), (1, "live")]
    assert rows[0]["code"] == "E-REL-007"


def test_a_repeated_report_is_no_news() -> None:
    """The same state seen again is no fact; a change is one, and counts exits."""
    domain = Domain()
    domain.deployed("hello")
    one = domain.instances("hello")[0]
    assert domain.saw(one, "ready") == []
    assert len(domain.saw(one, "exited", status=1, text="boom")) == 1
    assert domain.saw(one, "exited", status=1, text="boom") == []
    assert domain.saw(one, "starting") != []
    domain.saw(one, "exited", status=1, text="boom")
    seen = domain.world.need(Instance, one.id)
    assert (seen.exits, seen.status, seen.why, seen.ready > 0) == (2, 1, "boom", True)


def test_wishes_of_the_daemon_are_closed_shapes() -> None:
    """Reports carry no field that their kind has not."""
    for wish in (fail(), SawInstance(instance="i-0000000000000001", generation=1, state="ready")):  # type: ignore[arg-type]
        assert isinstance(wish, Command)
