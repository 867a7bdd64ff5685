"""Apps: pushed, scaled, restarted, destroyed; who may, and what is refused without a trace."""

from __future__ import annotations

import builtins
import random
import socket
import sqlite3
import time
from collections.abc import Callable

import pytest

from bus.messages import Asker, Command, Role
from compartments import standing
from compartments.addressing import OutOfRoom
from compartments.charter import Block, Quotas
from compartments.lookup import NoSuchCompartment, NoSuchToken
from compartments.rows import Network, NetworkInterface, Node, Task
from compartments.rows_apps import Agent, App, Build, Instance, Release, Rollout, Route, UsedUid
from enjin.errors import EnjinError, Forbidden
from enjin.names import BadName, Name
from ring1 import accounts, allocation, apps, instances, processes, releases, rollouts
from ring1.charter import NoCharter
from ring1.tenancy import UnknownApp
from tests.ring1.domain import BLUE, BLUE_TENANT, DAEMON, DAY, DEFAULT, TENANT, Domain, digest, make_charter, refuse

HELLO = Name("hello")


def test_a_push_makes_a_release_that_is_being_built() -> None:
    """A first push creates the app, its route and a build node with a uid of its own."""
    domain = Domain()
    assert domain.pushed("hello") == 1
    build = domain.world.all(Build)[0]
    app = domain.world.need(App, "hello")
    assert (domain.release("hello", 1).state, app.last_release, app.strategy, app.compartment) == ("building", 1, "jail", DEFAULT)
    assert build.uid in allocation.NODE_UIDS
    assert domain.world.need(Node, build.id).state == "pending"
    assert [route.host for route in domain.world.all(Route)] == ["hello.localhost"]
    assert {"app": "hello", "release": 1, "strategy": "jail", "url": "http://hello.localhost:8080/"}.items() <= domain.result.items()


def test_from_push_to_live() -> None:
    """Built, started, ready, live: one web process by default, none of the others."""
    domain = Domain()
    domain.pushed("hello")
    domain.built("hello", 1, {"web": "serve", "worker": "work"})
    assert [(one.process, one.index) for one in domain.instances("hello")] == [("web", 1)]
    assert domain.release("hello", 1).state == "starting"
    assert domain.world.all(Build) == []
    domain.ready("hello")
    domain.live("hello")
    app = domain.world.need(App, "hello")
    assert (app.live, app.generation, domain.release("hello", 1).state) == (1, 1, "live")
    assert None is domain.world.get(Rollout, "hello")
    assert domain.world.all(Task)[0].state == "done"


def test_an_instance_has_uid_port_addresses_and_agent_of_its_own() -> None:
    """Two instances share nothing, nor with the agent; addresses lie in the charter's block and are known as the node's."""
    domain = Domain()
    domain.deployed("hello")
    domain.do(processes.Scale(app=HELLO, processes={"web": 2}))
    one, two = domain.instances("hello")
    for field in ("id", "uid", "port", "ipv4", "ipv6", "offset"):
        assert getattr(one, field) != getattr(two, field)
    assert one.ipv4.startswith("10.80.4.")
    assert one.ipv6.startswith("fd00:4::")
    assert domain.world.all(Agent)[0].uid in allocation.AGENT_UIDS
    held = domain.world.find(NetworkInterface, node=one.id)
    assert [(one.ipv4, one.ipv6)] == [(interface.ipv4, interface.ipv6) for interface in held]
    assert tuple(domain.world.need(Node, which.id).state for which in sorted((one, two), key=lambda i: i.index)) == ("running", "pending")


def test_a_second_push_drains_the_first_and_frees_what_it_had() -> None:
    """The old instances drain once the new release is live, and then their addresses are free and their uids rest."""
    domain = Domain()
    domain.deployed("hello")
    old = domain.instances("hello")[0]
    domain.pushed("hello")
    domain.built("hello", 2)
    assert domain.world.need(Instance, old.id).wanted == "running"
    domain.ready("hello")
    domain.live("hello")
    assert domain.world.need(Instance, old.id).wanted == "draining"
    assert [domain.release("hello", number).state for number in (1, 2)] == ["superseded", "live"]
    domain.drained("hello")
    assert None is domain.world.get(Instance, old.id)
    assert None is domain.world.get(Node, old.id)
    assert None is domain.world.get(NetworkInterface, old.network, old.offset)
    assert domain.world.need(UsedUid, old.uid).until == domain.time + 30 * DAY
    assert domain.world.need(Network, old.network).used == 1


def test_a_uid_rests_for_thirty_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-ALL-1: with few uids a push is refused while they rest, and works again afterwards."""
    monkeypatch.setattr(allocation, "NODE_UIDS", range(2000, 2003))
    domain = Domain()
    domain.deployed("hello")
    assert {2000, 2001} == {domain.instances("hello")[0].uid, *(row.uid for row in domain.world.all(UsedUid))}
    domain.pushed("hello")
    domain.built("hello", 2)
    release = domain.release("hello", 2)
    assert (release.state, release.code) == ("failed", "E-APP-003")
    error = refuse(domain, apps.Push(app=HELLO, source=digest("x")), allocation.OutOfRoom)
    assert "30 days" in error.hint
    domain.time += 30 * DAY
    assert domain.deployed("hello") == 3


def test_a_full_network_fails_the_release_and_keeps_the_live_one() -> None:
    """Where there is no address left the release has failed with its code, and what is live stays live."""
    domain = Domain(make_charter(blocks=(Block(network="apps", ipv4="10.80.4.0/30"),)))
    domain.deployed("hello")
    domain.pushed("hello")
    domain.built("hello", 2)
    release = domain.release("hello", 2)
    assert (release.state, release.stage, release.code) == ("failed", "start", "E-ADR-002")
    assert domain.world.need(App, "hello").live == 1
    assert "full" in release.why
    assert len(domain.instances("hello")) == 1
    refuse(domain, processes.Scale(app=HELLO, processes={"web": 2}), OutOfRoom)


BAD_NAMES = ("h", "-hello", "hello-", "Hello", "9hello", "a" * 33, "hel_lo", "he/llo", "..", "hallo!", "h\u00e9llo", "")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(name: str) -> None:
    """A name that is not of the form is refused before anything is decided."""
    with pytest.raises(BadName):
        Name.parse(name)
    refuse(Domain(), apps.Push(app=name, source=digest("x")), BadName)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(apps.RESERVED))
def test_reserved_names_are_refused(name: str) -> None:
    """Names that enjin uses itself are no app's."""
    refuse(Domain(), apps.Push(app=Name(name), source=digest("x")), apps.ReservedName)


def test_another_compartments_name_is_refused() -> None:
    """INV-APP-1: a name belongs to the compartment that had it first, and is free again when the app is destroyed."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    wish = apps.Push(app=HELLO, compartment="blue", source=digest("x"))
    error = refuse(domain, wish, apps.NameTaken, BLUE_TENANT)
    assert "default" not in error.message
    domain.do(apps.Destroy(app=HELLO), TENANT)
    domain.do(wish, BLUE_TENANT)
    assert (domain.world.need(App, "hello").compartment, domain.world.need(App, "hello").last_release) == (BLUE, 2)


def test_tenants_see_only_their_own() -> None:
    """INV-TEN-1, INV-TEN-2: another compartment's app is refused in the very words of one that does not exist."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    asks: list[Callable[[Name], Command]] = [
        lambda app: apps.Destroy(app=app),
        lambda app: processes.Restart(app=app),
        lambda app: processes.Scale(app=app, processes={"web": 2}),
        lambda app: releases.Rollback(app=app),
    ]
    for ask in asks:
        there = refuse(domain, ask(HELLO), UnknownApp, BLUE_TENANT)
        absent = refuse(domain, ask(Name("hellu")), UnknownApp, BLUE_TENANT)
        assert there.message.replace("hello", "?") == absent.message.replace("hellu", "?")
        assert there.hint == absent.hint == UnknownApp.remedy
    assert domain.ask(apps.ListApps(), BLUE_TENANT) == []
    assert [row["name"] for row in domain.ask(apps.ListApps(), TENANT)] == ["hello"]
    assert refuse(domain, apps.Destroy(app=Name("hellu")), UnknownApp, TENANT).hint == "did you mean hello?"


def test_unknown_compartment_is_refused_with_a_hint() -> None:
    """A compartment that does not exist, or is another's, is refused; one's own is suggested."""
    domain = Domain()
    error = refuse(domain, apps.Push(app=HELLO, compartment="defautl", source=digest("x")), NoSuchCompartment)
    assert error.hint == "did you mean default?"
    refuse(domain, apps.Push(app=HELLO, compartment="blue", source=digest("x")), NoSuchCompartment, TENANT)
    nobody = Asker(id="u-x", role=Role.TENANT, compartment="")
    refuse(domain, apps.Push(app=HELLO, source=digest("x")), NoSuchCompartment, nobody)


def test_a_compartments_tenant_sees_what_is_homed_in_it() -> None:
    """An asker whose compartment is a home further up sees the apps of all beneath."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    domain.deployed("world", BLUE_TENANT, compartment="blue")
    above = Asker(id="u-y", role=Role.TENANT, compartment="cloud")
    assert [row["name"] for row in domain.ask(apps.ListApps(), above)] == ["hello", "world"]
    assert [row["name"] for row in domain.ask(apps.ListApps(compartment="blue"), above)] == ["world"]


def test_the_quota_of_apps_is_kept() -> None:
    """The domain has as many apps as its charter allows; destroyed ones do not count, pushed again ones neither."""
    domain = Domain(make_charter(quotas=Quotas(memory_bytes=1 << 40, processes=1 << 20, apps=1)))
    domain.deployed("one")
    refuse(domain, apps.Push(app=Name("two"), source=digest("x")), rollouts.OverQuota)
    domain.deployed("one")
    domain.do(apps.Destroy(app=Name("one")))
    domain.deployed("two")


@pytest.mark.parametrize(("memory_bytes", "count"), [(3 << 29, 1 << 20), (1 << 40, 800)])
def test_the_quota_of_memory_and_processes_is_kept(memory_bytes: int, count: int) -> None:
    """Three instances fit, over all apps; a fourth is refused, scaling down and replacing what there is are not."""
    domain = Domain(make_charter(quotas=Quotas(memory_bytes=memory_bytes, processes=count, apps=9)))
    domain.deployed("one")
    domain.do(processes.Scale(app=Name("one"), processes={"web": 2}))
    domain.deployed("two")
    refuse(domain, processes.Scale(app=Name("two"), processes={"web": 2}), rollouts.OverQuota)
    domain.pushed("three")
    domain.built("three", 1)
    assert (domain.release("three", 1).state, domain.release("three", 1).code) == ("failed", "E-APP-005")
    domain.deployed("one")
    assert len(domain.instances("one")) == 2
    domain.do(processes.Scale(app=Name("one"), processes={"web": 1}))
    domain.do(processes.Scale(app=Name("two"), processes={"web": 2}))


def test_nothing_is_decided_before_the_charter() -> None:
    """INV-CHR-2: a domain without a charter has no compartments and no apps."""
    domain = Domain(chartered=False)
    refuse(domain, apps.Push(app=HELLO, source=digest("x")), NoSuchCompartment)
    with pytest.raises(NoCharter):
        apps._strategy("", None, domain.world)


def test_strategies_that_do_not_work_here_are_refused() -> None:
    """With uids of its own a domain offers jail and user; without, only process, and no uid is given out."""
    domain = Domain()
    error = refuse(domain, apps.Push(app=HELLO, source=digest("x"), strategy="process"), apps.NoSuchStrategy)
    assert "jail or user" in error.message
    domain.pushed("hello", strategy="user")
    assert domain.world.need(App, "hello").strategy == "user"
    domain.pushed("hello")
    assert domain.world.need(App, "hello").strategy == "user"
    domain.pushed("hello", strategy="jail")
    assert domain.world.need(App, "hello").strategy == "jail"
    bare = Domain(make_charter(uid_first=-1, uid_count=0, blocks=(Block(network="apps", ipv4="127.64.0.0/16", ipv6="::1/128"),)))
    bare.deployed("hello")
    bare.do(processes.Scale(app=HELLO, processes={"web": 2}))
    one, two = bare.instances("hello")
    assert {(-1, "::1", "process")} == {(each.uid, each.ipv6, each.strategy) for each in (one, two)}
    assert one.port != two.port
    refuse(bare, apps.Push(app=HELLO, source=digest("x"), strategy="jail"), apps.NoSuchStrategy)


def test_scaling_adds_the_lowest_and_drains_the_highest() -> None:
    """INV-PRC-1: instances that stay are the very same; scale converges to what was asked."""
    domain = Domain()
    domain.deployed("hello", lines={"web": "serve", "worker": "work"})
    first = domain.instances("hello")[0]
    domain.do(processes.Scale(app=HELLO, processes={"web": 3, "worker": 2}))
    assert {("web", 1), ("web", 2), ("web", 3), ("worker", 1), ("worker", 2)} == {(i.process, i.index) for i in domain.instances("hello")}
    domain.do(processes.Scale(app=HELLO, processes={"web": 1}))
    assert {("web", 1), ("worker", 1), ("worker", 2)} == {(i.process, i.index) for i in domain.instances("hello")}
    assert first.id in {i.id for i in domain.instances("hello")}
    domain.do(processes.Scale(app=HELLO, processes={"web": 2}))
    assert sum(i.process == "web" for i in domain.instances("hello")) == 2
    domain.do(processes.Scale(app=HELLO, processes={"web": 0, "worker": 0}))
    assert domain.instances("hello") == []


def test_a_scale_is_kept_by_the_next_release() -> None:
    """A push after a scale starts as many instances as were wanted."""
    domain = Domain()
    domain.deployed("hello")
    domain.do(processes.Scale(app=HELLO, processes={"web": 3}))
    domain.deployed("hello")
    assert len(domain.instances("hello")) == 3


@pytest.mark.parametrize(("wanted", "error"), [
    ({"web": 51}, processes.BadScale), ({"web": -1}, processes.BadScale), ({}, processes.BadScale), ({"wbe": 1}, processes.UnknownProcess),
])  # fmt: skip
def test_impossible_scales_are_refused(wanted: dict[str, int], error: type[EnjinError]) -> None:
    """A number out of range, nothing at all, or a process that the release has not."""
    domain = Domain()
    domain.deployed("hello")
    caught = refuse(domain, processes.Scale(app=HELLO, processes=wanted), error)
    if "wbe" in wanted:
        assert caught.hint == "did you mean web?"


def test_nothing_can_be_scaled_or_restarted_before_it_is_live() -> None:
    """An app that is still being built has nothing to scale, restart or go back to."""
    domain = Domain()
    domain.pushed("hello")
    for wish in (processes.Scale(app=HELLO, processes={"web": 2}), processes.Restart(app=HELLO), releases.Rollback(app=HELLO)):
        refuse(domain, wish, processes.NothingLive)


def test_a_restart_brings_new_instances_before_old_ones_drain() -> None:
    """The same release serves at a new generation; the old instances serve until the new ones are ready."""
    domain = Domain()
    domain.deployed("hello")
    old = domain.instances("hello")[0]
    domain.do(processes.Restart(app=HELLO))
    assert len(domain.instances("hello")) == 2
    refuse(domain, processes.Restart(app=HELLO), rollouts.RollingOut)
    domain.ready("hello")
    domain.live("hello")
    domain.drained("hello")
    new = domain.instances("hello")[0]
    assert (1, old.generation + 1) == (new.release, new.generation)
    assert new.id != old.id
    assert new.uid != old.uid
    assert domain.release("hello", 1).state == "live"


def test_scaling_during_a_rollout_changes_both_sides() -> None:
    """What serves and what is about to serve both get the number wanted; what never served goes without draining."""
    domain = Domain()
    domain.deployed("hello")
    domain.do(processes.Restart(app=HELLO))
    domain.do(processes.Scale(app=HELLO, processes={"web": 2}))
    assert sorted(i.generation for i in domain.instances("hello")) == [1, 1, 2, 2]
    domain.do(processes.Scale(app=HELLO, processes={"web": 1}))
    assert {(1, "draining"), (2, "gone")} == {(i.generation, i.wanted) for i in domain.world.all(Instance) if i.wanted != "running"}


def test_a_newer_push_supersedes_an_older_build() -> None:
    """Two pushes in a row: the older build ends, its release and its operation say so."""
    domain = Domain()
    domain.pushed("hello")
    first = domain.request
    domain.pushed("hello")
    assert [domain.release("hello", number).state for number in (1, 2)] == ["superseded", "building"]
    assert [build.release for build in domain.world.all(Build)] == [2]
    assert (domain.world.need(Task, first).state, domain.world.need(Task, first).stage) == ("failed", "superseded")
    refuse(
        domain, releases.Built(app=HELLO, release=1, tree=digest("t"), language="x", processes={"web": "x"}), releases.NotBuilding, DAEMON
    )


def test_destroying_leaves_only_the_numbers() -> None:
    """INV-APP-2: rows, routes and settings are gone, instances go, and a new app of that name counts on."""
    domain = Domain()
    domain.deployed("hello")
    domain.do(processes.Restart(app=HELLO))
    domain.pushed("hello")
    domain.do(apps.Destroy(app=HELLO))
    assert [*domain.world.all(Release), *domain.world.all(Route), *domain.world.all(Build), *domain.world.all(Rollout)] == []
    assert {"gone"} == {one.wanted for one in domain.world.all(Instance)}
    assert {"done", "failed"} == {task.state for task in domain.world.all(Task)}
    refuse(domain, processes.Restart(app=HELLO), UnknownApp)
    domain.drained("hello")
    assert domain.world.all(Instance) == []
    assert sum(network.used for network in domain.world.all(Network)) == 0
    assert domain.pushed("hello") == 3
    domain.built("hello", 3)
    assert domain.world.need(Rollout, "hello").generation == 3


def test_an_app_without_web_is_live_without_instances() -> None:
    """Nothing is wanted of a worker until it is scaled: the release is live at once."""
    domain = Domain()
    domain.pushed("jobs")
    domain.built("jobs", 1, {"worker": "work"})
    assert domain.release("jobs", 1).state == "live"
    domain.do(processes.Scale(app=Name("jobs"), processes={"worker": 1}))
    assert len(domain.instances("jobs")) == 1


def test_only_the_supervisor_reports() -> None:
    """What was seen is the daemon's to say: every such rule asks for the highest role."""
    for rule in (*releases.TABLE, *instances.TABLE):
        if hasattr(rule, "decide") and rule.command is not releases.Rollback:
            assert rule.allow == Role.SUPERVISOR


def test_decisions_touch_nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every decision is a pure function: with files, sockets, clocks, chance and databases raising, a whole life goes on."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a decision reached outside")

    monkeypatch.setattr(builtins, "open", forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(sqlite3, "connect", forbidden)
    for name in ("time", "time_ns", "monotonic"):
        monkeypatch.setattr(time, name, forbidden)
    monkeypatch.setattr(random, "random", forbidden)
    try:
        domain = Domain()
        domain.deployed("hello")
        domain.do(processes.Scale(app=HELLO, processes={"web": 2}))
        domain.deployed("hello")
        domain.do(releases.Rollback(app=HELLO))
        domain.do(apps.Destroy(app=HELLO))
        equal = domain.world.digest() == domain.replay().digest()
    finally:
        monkeypatch.undo()
    assert equal


def test_a_token_gives_no_more_than_its_maker_has() -> None:
    """INV-ACC-1: a tenant makes no operator's token, none for another compartment, and sees and revokes only its own."""
    domain = Domain()
    refuse(domain, accounts.CreateToken(name=Name("ci"), secret_hash="ab" * 32, role="operator"), Forbidden, TENANT)
    refuse(domain, accounts.CreateToken(name=Name("ci"), secret_hash="ab" * 32, compartment="blue"), NoSuchCompartment, TENANT)
    refuse(domain, accounts.CreateToken(name=Name("ci"), secret_hash="not a hash"), accounts.BadToken, TENANT)
    domain.do(accounts.CreateToken(name=Name("ci"), secret_hash="ab" * 32, life_s=60), TENANT)
    token = domain.result["id"]
    refuse(domain, accounts.CreateToken(name=Name("other"), secret_hash="ab" * 32), accounts.BadToken, TENANT)
    asker = standing.of_token(domain.world, "ab" * 32, domain.time)
    assert (TENANT.id, Role.TENANT, DEFAULT) == (asker.id, asker.role, asker.compartment)
    with pytest.raises(standing.TokenRefused):
        standing.of_token(domain.world, "ab" * 32, domain.time + 61_000_000)
    assert "ab" * 32 not in str(domain.ask(accounts.ListTokens(), TENANT))
    assert domain.ask(accounts.ListTokens(), BLUE_TENANT) == []
    refuse(domain, accounts.RevokeToken(token=token), NoSuchToken, BLUE_TENANT)
    domain.do(accounts.RevokeToken(token=token), TENANT)
    with pytest.raises(standing.TokenRefused):
        standing.of_token(domain.world, "ab" * 32, domain.time)


def test_an_operators_token_may_be_a_tenants() -> None:
    """An operator makes tokens of either role; each gives its own."""
    domain = Domain()
    for name, role in (("one", "tenant"), ("two", "operator")):
        domain.do(accounts.CreateToken(name=Name(name), secret_hash=digest(name), role=role))  # type: ignore[arg-type]
        assert standing.of_token(domain.world, digest(name), domain.time).role == accounts.LEVELS[role]  # type: ignore[index]
