"""The plan of ring 1, carried out by hands, agents and a router that behave."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from compartments.rows_apps import Agent, App, Build, Instance, Release, Rollout
from enjin.names import Name
from ring1 import apps, processes, releases, settings
from ring1.plan import BUILD_US, CRASHES_MAX, ProcessSeen, plan, wanted_agents, wanted_routes
from ring1.steps import CollectBuild, DrainServer, EndAgent, ForeignStep, RunAgent, RunInstance, Say, SetRoutes, StalePlan, check
from supervision.reconcile import Action
from supervision.steps import DestroyNode, EnsureFabric, RemoveTree, Running, StartNode, StopNode, parse_step
from tests.ring1.domain import DEFAULT, SECOND, Domain, digest, make_charter, sealed
from tests.ring1.rack import GROUND, Rack

HELLO = Name("hello")


def up(app: str = "hello") -> Rack:
    """Return a rack on which *app* was pushed and is live."""
    rack = Rack(Domain())
    rack.domain.pushed(app)
    rack.settle()
    return rack


def kinds(actions: list[Action]) -> list[type]:
    """Return what each action does."""
    return [type(action.step) for action in actions]


def test_from_push_to_route() -> None:
    """One push settles into a live release whose instance gets the requests, and then there is nothing to do."""
    rack = up()
    app = rack.domain.world.need(App, "hello")
    assert (app.live, app.generation) == (1, 1)
    assert rack.serving("hello") == {one.id for one in rack.domain.instances("hello")}
    assert rack.plan() == []
    assert [type(step) for step in rack.log if not isinstance(step, Say)] == [
        EnsureFabric, SetRoutes, StartNode, CollectBuild, RunAgent, StartNode, DestroyNode, RunInstance, SetRoutes,
    ]  # fmt: skip


def test_a_plan_leaves_no_choice() -> None:
    """INV-PLN-1: the specification of an instance has its uid, addresses, tree, limits, generation and the agent that may control it."""
    rack = up()
    step = next(step for step in rack.log if isinstance(step, StartNode) and step.spec.purpose == "app")
    one = rack.domain.instances("hello")[0]
    spec = step.spec
    assert (spec.node, spec.uid, spec.generation, spec.strategy) == (one.id, one.uid, one.generation, "jail")
    assert spec.interface is not None
    assert spec.interface.addresses == (f"{one.ipv4}/24", f"{one.ipv6}/120")
    assert (spec.interface.bridge, spec.outgoing, spec.interface.isolated) == ("apps", False, True)
    assert (spec.mounts[0].root, spec.mounts[0].source, spec.mounts[0].target) == ("releases", rack.domain.release("hello", 1).tree, "/app")
    assert (spec.limits.memory_bytes, spec.limits.processes) == (512 << 20, 256)
    assert spec.control_uid == rack.domain.world.need(Agent, DEFAULT).uid
    run = next(step for step in rack.log if isinstance(step, RunInstance))
    assert (run.line, run.port, run.address, run.health) == ("serve", one.port, one.ipv4, "/")
    assert parse_step(msgspec.json.encode(step)) == step


def test_a_build_reaches_outside_and_nothing_of_ours() -> None:
    """INV-SPC-2: its own way out, no interface, the archive read-only, one writable directory of its own."""
    rack = Rack(Domain())
    rack.domain.pushed("hello")
    action = next(action for action in rack.plan() if isinstance(action.step, StartNode))
    spec = action.step.spec
    assert (spec.purpose, spec.interface, spec.outgoing, spec.closed) == ("build", None, True, GROUND.closed)
    assert [(mount.target, mount.writable) for mount in spec.mounts] == [("/source.tar", False), ("/out", True), ("/srv/mirror", False)]
    assert spec.services[0].env == GROUND.build_environment
    assert spec.services[0].restart == "never"
    assert parse_step(msgspec.json.encode(action.step)) == action.step


def test_nothing_secret_stands_in_a_plan() -> None:
    """Settings are named by key and version; even their sealed text stays out."""
    rack = up()
    rack.domain.do(settings.SetConfig(app=HELLO, values={"TOKEN": sealed("token")}))
    rack.settle()
    run = [step for step in rack.log if isinstance(step, RunInstance)][-1]
    assert (run.keys, run.settings) == (("TOKEN",), 1)
    assert not any(sealed("token") in repr(step) for step in rack.log if not isinstance(step, Say))


def test_a_second_push_never_leaves_the_route_empty() -> None:
    """INV-ROL-3: at every step somebody serves; the old instance leaves router, node and world in this order."""
    rack = up()
    old = rack.domain.instances("hello")[0].id
    rack.domain.pushed("hello")
    rack.log.clear()
    for _ in range(40):
        if not rack.round():
            break
        assert rack.serving("hello")
    assert rack.domain.world.need(App, "hello").live == 2
    assert old not in rack.serving("hello")
    assert rack.domain.world.get(Instance, old) is None
    about = [type(step) for step in rack.log if old in repr(step) and not isinstance(step, SetRoutes)]
    assert about == [DrainServer, StopNode, DestroyNode, Say]


def test_an_old_instance_gets_time_to_drain_and_a_failed_one_none() -> None:
    """What served gets the app's drain time in the router and in its node; what never served is ended soon."""
    rack = up()
    rack.domain.pushed("hello")
    rack.settle()
    drains = [step for step in rack.log if isinstance(step, DrainServer)]
    stops = [step for step in rack.log if isinstance(step, StopNode)]
    assert [(drains[0].deadline_ms, stops[0].grace_ms)] == [(10_000, 10_000)]
    rack.moods["hello"] = "failed"
    rack.domain.pushed("hello")
    rack.settle()
    assert [step.grace_ms for step in rack.log if isinstance(step, StopNode)][1:] == [2_000]


def test_a_failed_build_leaves_the_old_release() -> None:
    """Its node is gone, its release says why, and what served still does."""
    rack = up()
    serving = rack.serving("hello")
    rack.lines["hello"] = None
    rack.domain.pushed("hello")
    rack.settle()
    release = rack.domain.release("hello", 2)
    assert (release.state, release.code, release.why) == ("failed", "E-REL-007", "boom")
    assert rack.serving("hello") == serving
    assert set(rack.nodes) == serving


def test_an_app_that_never_answers_fails_after_its_time() -> None:
    """Thirty seconds, then E-APP-011; the old release serves on and the new instance is gone."""
    rack = up()
    serving = rack.serving("hello")
    rack.moods["hello"] = "starting"
    rack.domain.pushed("hello")
    rack.settle()
    assert rack.domain.world.get(Rollout, "hello") is not None
    rack.domain.time += 29 * SECOND
    assert rack.plan() == []
    rack.domain.time += SECOND
    rack.settle()
    release = rack.domain.release("hello", 2)
    assert (release.state, release.stage, release.code) == ("failed", "health", "E-APP-011")
    assert "did not answer on port" in release.why
    assert rack.serving("hello") == serving
    assert set(rack.nodes) == serving


def test_a_daemon_that_was_away_gives_a_rollout_its_time_again() -> None:
    """The time to be ready counts from when this daemon began to look."""
    rack = up()
    rack.moods["hello"] = "starting"
    rack.domain.pushed("hello")
    rack.settle()
    rack.domain.time += 3600 * SECOND
    late = msgspec.structs.replace(rack.seen(), since=rack.domain.time - SECOND)
    assert plan(rack.domain.world, late, GROUND) == []


def test_a_process_that_crashes_at_start_fails_soon() -> None:
    """Three ends before it was ready are enough; the text says how it ended."""
    rack = up()
    rack.moods["hello"] = "starting"
    rack.domain.pushed("hello")
    rack.settle()
    one = next(one for one in rack.domain.instances("hello") if one.release == 2)
    for _ in range(CRASHES_MAX):
        rack.processes[one.id] = ProcessSeen(generation=one.generation, state="exited", status=1, text="ImportError: no module")
        rack.round()
        rack.processes[one.id] = ProcessSeen(generation=one.generation, state="starting")
        rack.round()
    rack.settle()
    release = rack.domain.release("hello", 2)
    assert (release.state, release.code) == ("failed", "E-APP-012")


def test_a_process_that_ends_while_it_serves_keeps_its_route() -> None:
    """The router's own checks bridge a restart; the route is not rewritten for it."""
    rack = up()
    one = rack.domain.instances("hello")[0]
    before = wanted_routes(rack.domain.world)
    rack.processes[one.id] = ProcessSeen(generation=1, state="exited", status=-9)
    assert kinds(rack.round()) == [Say]
    assert wanted_routes(rack.domain.world) == before
    rack.processes[one.id] = ProcessSeen(generation=1, state="ready")
    rack.settle()
    assert rack.serving("hello") == {one.id}


@pytest.mark.parametrize("harm", ["node", "agent", "router", "fabric", "link", "stopped"])
def test_what_is_broken_is_mended(harm: str) -> None:
    """A killed node, agent or router, a removed link or bridge: one settles again, nothing is started twice."""
    rack = up()
    one = rack.domain.instances("hello")[0].id
    started = dict(rack.started)
    if harm == "node":
        rack.kill(one)
    elif harm == "agent":
        rack.end_agent(DEFAULT)
    elif harm == "router":
        rack.hosts, rack.servers = {}, {}
    elif harm == "fabric":
        rack.fabric = False
    elif harm == "link":
        rack.nodes[one] = msgspec.structs.replace(rack.nodes[one], missing=("link",))
    else:
        rack.nodes[one] = msgspec.structs.replace(rack.nodes[one], state="stopped")
    assert rack.plan()
    if harm in ("node", "stopped"):
        rack.servers = {}
    rack.settle()
    assert rack.serving("hello") == {one}
    assert one in rack.processes
    assert rack.started[one] == started[one] + (harm in ("node", "link", "stopped"))


def test_a_strange_node_is_destroyed_and_ring_1s_own_is_not() -> None:
    """INV-PLN-4: an app's or a build's node that nothing wants goes; a node of another purpose is not ours to judge."""
    rack = up()
    for node, purpose in (("i-00000000000000aa", "app"), ("b-00000000000000bb", "build"), ("n-00000000000000cc", "ring1")):
        rack.nodes[node] = Running(node=node, generation=1, state="running", strategy="jail", purpose=purpose)
    rack.settle()
    assert set(rack.nodes) == {*rack.serving("hello"), "n-00000000000000cc"}


def test_destroying_ends_route_instances_agent_and_trees() -> None:
    """Nothing of the app is left to run or on disk."""
    rack = up()
    rack.domain.do(apps.Destroy(app=HELLO))
    rack.settle()
    assert (rack.nodes, rack.agents, rack.hosts, rack.servers, rack.trees) == ({}, set(), {}, {}, set())
    assert [step.deadline_ms for step in rack.log if isinstance(step, DrainServer)] == [0]
    assert [type(step) for step in rack.log if isinstance(step, EndAgent | RemoveTree)] == [EndAgent, RemoveTree]


def test_trees_of_kept_releases_stay() -> None:
    """Only what no release names is removed, and nothing while a build may be about to name it."""
    rack = up()
    rack.trees.add(digest("nobody's"))
    rack.domain.pushed("hello")
    assert RemoveTree not in kinds(rack.plan())
    rack.settle()
    assert rack.trees == rack.live_trees()
    assert len(rack.trees) == 2


def test_one_agent_per_compartment() -> None:
    """Compartments with instances have one agent each, with a uid of its own, and none without."""
    rack = up()
    rack.domain.pushed("world")
    rack.domain.pushed("blue-app", compartment="blue")
    rack.settle()
    agents = wanted_agents(rack.domain.world)
    assert len(agents) == len(rack.agents) == 2
    assert len({agent.uid for agent in agents}) == 2
    rack.domain.do(apps.Destroy(app=Name("blue-app")))
    rack.settle()
    assert rack.agents == {DEFAULT}
    assert len(rack.domain.world.all(Agent)) == 2


def test_scaling_settles_at_the_number_wanted() -> None:
    """Up and down, and what gets requests follows."""
    rack = up()
    for count in (3, 1, 5, 0, 2):
        rack.domain.do(processes.Scale(app=HELLO, processes={"web": count}))
        rack.settle()
        assert len(rack.serving("hello")) == count == len(rack.nodes)


def test_only_web_is_routed() -> None:
    """A worker runs and gets no requests, nor a probe of a port."""
    rack = Rack(Domain())
    rack.lines["hello"] = {"web": "serve", "worker": "work"}
    rack.domain.pushed("hello")
    rack.settle()
    rack.domain.do(processes.Scale(app=HELLO, processes={"worker": 1}))
    rack.settle()
    assert len(rack.serving("hello")) == 1
    assert {step.process: step.health for step in rack.log if isinstance(step, RunInstance)} == {"web": "/", "worker": None}


def test_an_unready_instance_is_not_routed() -> None:
    """An instance that scaling added gets no requests before it was ready once."""
    rack = up()
    rack.moods["hello"] = "starting"
    rack.domain.do(processes.Scale(app=HELLO, processes={"web": 2}))
    rack.settle()
    assert len(rack.serving("hello")) == 1


def test_a_build_without_end_is_given_up() -> None:
    """After fifteen minutes the release has failed and the node is gone."""
    rack = Rack(Domain())
    rack.domain.pushed("hello")
    rack.fabric = True
    action = next(action for action in rack.plan() if isinstance(action.step, StartNode))
    rack.apply(action.step)
    rack.builds.clear()
    rack.domain.time += BUILD_US
    rack.settle()
    assert (rack.domain.release("hello", 1).code, rack.nodes) == ("E-REL-008", {})


def test_a_build_whose_node_dies_has_failed() -> None:
    """It is not started again by itself."""
    rack = Rack(Domain())
    rack.domain.pushed("hello")
    rack.apply(next(action for action in rack.plan() if isinstance(action.step, StartNode)).step)
    rack.builds.clear()
    rack.kill(rack.domain.world.all(Build)[0].id)
    rack.settle()
    assert (rack.domain.release("hello", 1).code, rack.nodes) == ("E-REL-007", {})


def test_nothing_ends_while_the_router_is_silent() -> None:
    """INV-PLN-3: without a word from the router an instance that served is kept for a while, then let go."""
    rack = up()
    old = rack.domain.instances("hello")[0].id
    rack.domain.pushed("hello")
    for _ in range(40):
        actions = rack.round()
        if rack.domain.world.need(App, "hello").live == 2:
            break
    rack.router = False
    for _ in range(5):
        actions = rack.round()
    assert old in rack.nodes
    assert actions == []
    rack.domain.time += 31 * SECOND
    rack.servers.clear()
    rack.settle()
    assert old not in rack.nodes


def test_process_mode_has_no_network_and_no_uids() -> None:
    """Everything as one user on loopback: no bridge, no interface, uid 0 stands for one's own."""
    domain = Domain(make_charter(uid_first=-1, uid_count=0))
    rack = Rack(domain)
    rack.fabric = True
    domain.pushed("hello")
    rack.settle()
    specs = [step.spec for step in rack.log if isinstance(step, StartNode)]
    assert {(spec.strategy, spec.uid, spec.interface) for spec in specs} == {("process", 0, None)}
    assert [spec.control_uid for spec in specs if spec.purpose == "app"] == [0]


def test_an_old_plan_is_refused_when_it_is_applied() -> None:
    """INV-RST-1: what was planned before a later decision is checked against the world as it is."""
    rack = up()
    one = rack.domain.instances("hello")[0]
    start = next(Action(step.spec.node, 1, step) for step in rack.log if isinstance(step, StartNode) and step.spec.purpose == "app")
    run = next(Action(step.instance, 1, step) for step in rack.log if isinstance(step, RunInstance))
    world = rack.domain.world
    for allowed in (start, run):
        check(allowed, world)
    ending: list[Any] = [StopNode(node=one.id), DestroyNode(node=one.id), DrainServer(one.id, 0)]
    for step in (*ending, RemoveTree(root="releases", path=rack.domain.release("hello", 1).tree)):
        with pytest.raises(StalePlan):
            check(Action(one.id, 1, step), world)
    for spec in (
        msgspec.structs.replace(start.step.spec, uid=one.uid + 1),
        msgspec.structs.replace(
            start.step.spec, interface=msgspec.structs.replace(start.step.spec.interface, addresses=("10.80.4.200/24",))
        ),
    ):
        with pytest.raises(ForeignStep):
            check(Action(one.id, 1, StartNode(spec=spec)), world)
    rack.domain.do(apps.Destroy(app=HELLO))
    for step in (start, run):
        with pytest.raises(StalePlan):
            check(step, world)
    for step in ending:
        check(Action(one.id, 1, step), world)


def test_rollback_starts_without_a_build() -> None:
    """The old tree is still there: no build node, one new instance."""
    rack = up()
    rack.domain.pushed("hello")
    rack.settle()
    rack.log.clear()
    rack.domain.do(releases.Rollback(app=HELLO))
    rack.settle()
    started = [step.spec for step in rack.log if isinstance(step, StartNode)]
    assert [spec.purpose for spec in started] == ["app"]
    assert started[0].mounts[0].source == rack.domain.release("hello", 1).tree
    assert [release.state for release in rack.domain.world.all(Release)] == ["superseded", "superseded", "live"]
