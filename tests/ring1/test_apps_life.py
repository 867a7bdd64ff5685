"""Any order of wishes, sights, kills and passing time: the domain against a plain model of it."""

from __future__ import annotations

import collections
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from bus.messages import Command
from compartments.addressing import OutOfRoom
from compartments.charter import Block, Quotas
from compartments.rows import Counter, Network, NetworkInterface, Node, RevokedKey
from compartments.rows_apps import App, Build, Instance, Release, Rollout, Settings, UsedUid
from enjin.errors import Refused
from enjin.names import Name
from ring1 import apps, processes, releases
from ring1 import settings as app_settings
from ring1.rollouts import RELEASES_KEPT, UNFINISHED, RollingOut, desired
from tests.ring1.domain import BLUE_TENANT, DAY, SECOND, TENANT, Domain, digest, make_charter, sealed
from tests.ring1.rack import Rack

NAMES = ("red", "green", "lilac")
LINES: dict[str, str] = {"web": "serve", "worker": "work"}
names = st.sampled_from(("red", "red", "green", "green", "lilac"))
moods = st.sampled_from(("ready", "ready", "ready", "starting", "failed"))
lines_found = st.sampled_from((LINES, LINES, {"web": "serve"}, None))


class Life(RuleBasedStateMachine):
    """Apps of two tenants; the model is a dict of what each must be."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (Block(network="apps", ipv4="10.80.4.0/26", ipv6="fd00:4::/122"),)
        self.domain = Domain(make_charter(blocks=blocks, quotas=Quotas(memory_bytes=1 << 40, processes=1 << 20, apps=2)))
        self.rack = Rack(self.domain)
        self.rack.lines = dict.fromkeys(NAMES, LINES)
        self.model: dict[str, dict[str, Any]] = {}
        self.highest: collections.Counter[str] = collections.Counter()
        self.live_trees: dict[str, str] = {}

    def wish(self, command: Command, asker: Any, allowed: bool) -> bool:
        """Send a wish; it is refused exactly when the model says so, but for a lack of room or a roll-out under way."""
        refusal = None
        try:
            self.domain.do(command, asker)
        except (Refused, RollingOut) as error:
            refusal = error
        excused = isinstance(refusal, RollingOut | OutOfRoom)
        assert excused or allowed == (refusal is None), f"{command}: {refusal or 'was allowed'}"
        return refusal is None

    def owner(self, app: str) -> Any:
        return self.model[app]["owner"] if app in self.model else None

    @initialize()
    def begin(self) -> None:
        for app, blue in (("red", False), ("green", True)):
            self.push(app, blue, LINES)
        self.rack.settle()

    @rule(app=names, blue=st.booleans(), lines=lines_found)
    def push(self, app: str, blue: bool, lines: dict[str, str] | None) -> None:
        asker = BLUE_TENANT if blue else TENANT
        allowed = self.owner(app) is asker if app in self.model else len(self.model) < 2
        source = digest(f"{app} {self.domain.count}")
        compartment = "blue" if blue else "default"
        self.rack.lines[app] = lines
        if self.wish(apps.Push(app=Name(app), compartment=compartment, source=source), asker, allowed):
            self.model.setdefault(app, {"owner": asker, "scale": {}, "settings": {}})
            number = self.domain.result["release"]
            assert number == self.highest[app] + 1
            self.highest[app] = number

    @rule(app=names, blue=st.booleans(), sure=st.integers(0, 3))
    def destroy(self, app: str, blue: bool, sure: int) -> None:
        if sure:
            return
        asker = BLUE_TENANT if blue else TENANT
        if self.wish(apps.Destroy(app=Name(app)), asker, self.owner(app) is asker):
            del self.model[app]

    @rule(app=names, process=st.sampled_from(["web", "worker"]), count=st.integers(0, 4))
    def scale(self, app: str, process: str, count: int) -> None:
        row, rollout = self.domain.world.get(App, app), self.domain.world.get(Rollout, app)
        serving = [row.live] if row is not None and row.live else []
        serving += [rollout.release] if rollout is not None else []
        known = {name for number in serving for name in self.domain.release(app, number).processes}
        allowed = app in self.model and process in known
        if self.wish(processes.Scale(app=Name(app), processes={process: count}), self.owner(app) or TENANT, allowed):
            self.model[app]["scale"][process] = count

    @rule(app=names)
    def restart(self, app: str) -> None:
        row = self.domain.world.get(App, app)
        self.wish(processes.Restart(app=Name(app)), self.owner(app) or TENANT, row is not None and row.live > 0)

    @rule(app=names)
    def rollback(self, app: str) -> None:
        row = self.domain.world.get(App, app)
        lived = [one for one in self.domain.world.find(Release, app=app) if one.lived and row is not None and one.number != row.live]
        allowed = row is not None and row.live > 0 and bool(lived)
        if self.wish(releases.Rollback(app=Name(app)), self.owner(app) or TENANT, allowed):
            self.highest[app] = self.domain.result["release"]
            self.model[app]["settings"] = dict(app_settings.current(self.domain.world, self.domain.world.need(App, app)))

    @rule(app=names, key=st.sampled_from(["A", "B"]), value=st.sampled_from([sealed("a"), sealed("b")]))
    def configure(self, app: str, key: str, value: str) -> None:
        if self.wish(app_settings.SetConfig(app=Name(app), values={key: value}), self.owner(app) or TENANT, app in self.model):
            self.model[app]["settings"][key] = value
            self.highest[app] = max(self.highest[app], self.domain.result["release"])

    @rule(app=names, mood=moods)
    def become(self, app: str, mood: str) -> None:
        self.rack.moods[app] = mood

    @rule(rounds=st.integers(1, 4))
    def go_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.rack.round()

    @rule(well=st.booleans())
    def settle(self, well: bool) -> None:
        if well:
            self.rack.moods = {}
        self.rack.settle()
        self.check_settled()

    @rule(seconds=st.sampled_from([1, 31, 16 * 60, 31 * 24 * 3600]))
    def pass_time(self, seconds: int) -> None:
        self.domain.time += seconds * SECOND

    @precondition(lambda self: self.rack.nodes)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.rack.nodes)))
        self.rack.servers.pop(node, None)
        self.rack.kill(node)

    @rule(blue=st.booleans())
    def kill_agent(self, blue: bool) -> None:
        for compartment in sorted(self.rack.agents)[int(blue) :]:
            self.rack.end_agent(compartment)

    @rule()
    def kill_router(self) -> None:
        self.rack.hosts, self.rack.servers = {}, {}

    def check_settled(self) -> None:
        """What is wanted runs and nothing else does; scale has converged where nothing is under way."""
        world = self.domain.world
        rows = {one.id for one in (*world.all(Instance), *world.all(Build))}
        assert {name for name, node in self.rack.nodes.items() if node.state == "running"} == rows
        assert {one.wanted for one in world.all(Instance)} <= {"running"}
        for app in self.rack.apps():
            if world.get(Rollout, app.name) is None and app.live:
                wanted = desired(self.model[app.name]["scale"], self.domain.release(app.name, app.live).processes)
                actual = collections.Counter(one.process for one in self.domain.instances(app.name))
                assert {process: count for process, count in wanted.items() if count} == actual
                routed = {one.id for one in self.domain.instances(app.name) if one.process == "web" and one.ready and one.state != "failed"}
                assert self.rack.serving(app.name) == routed
        if not world.all(Build):
            assert self.rack.trees >= self.rack.live_trees()

    @invariant()
    def nothing_is_shared(self) -> None:
        """INV-APR-3: uids, ports and addresses are unique; a resting uid belongs to nobody; networks count right."""
        world = self.domain.world
        instances = world.all(Instance)
        uids = [*(one.uid for one in instances), *(build.uid for build in world.all(Build))]
        for values in (uids, [one.port for one in instances], [one.ipv4 for one in instances], [one.ipv6 for one in instances]):
            assert len(set(values)) == len(values)
        assert not set(uids) & {row.uid for row in world.all(UsedUid)}
        assert all(row.until <= self.domain.time + 30 * DAY for row in world.all(UsedUid))
        held = {(row.node, row.ipv4) for row in world.all(NetworkInterface)}
        assert held == {(one.id, one.ipv4) for one in instances}
        assert sum(network.used for network in world.all(Network)) == len(instances)
        assert {node.id for node in world.all(Node)} == {one.id for one in (*instances, *world.all(Build))}

    @invariant()
    def at_most_one_is_live(self) -> None:
        """INV-APR-2 and INV-ROL-1: one live release and one roll-out at most; numbers only rise; what is kept is bounded."""
        world = self.domain.world
        assert {app.name for app in self.rack.apps()} == set(self.model)
        for app in world.all(App):
            rows = world.find(Release, app=app.name)
            live = [row.number for row in rows if row.state == "live"]
            assert live == ([app.live] if app.live else [])
            assert app.last_release == self.highest[app.name]
            assert len([row for row in rows if row.state not in UNFINISHED]) <= RELEASES_KEPT + 30
            unfinished = [row for row in rows if row.state in UNFINISHED]
            builds = {build.release for build in world.find(Build, app=app.name)}
            rollout = world.get(Rollout, app.name)
            starting = {rollout.release} if rollout is not None else set()
            assert {row.number for row in unfinished} <= builds | starting
            if not app.destroyed:
                assert app_settings.current(world, app) == self.model[app.name]["settings"]
                assert all(world.get(Settings, app.name, row.settings) for row in rows if row.settings)

    @invariant()
    def a_live_app_keeps_its_instances(self) -> None:
        """INV-ROL-3: as long as an app is live at a generation, that generation has what its scale says."""
        for app in self.rack.apps():
            if app.live:
                wanted = desired(self.model[app.name]["scale"], self.domain.release(app.name, app.live).processes)
                actual = collections.Counter(one.process for one in self.domain.instances(app.name) if one.generation == app.generation)
                assert {process: count for process, count in wanted.items() if count} == actual

    def teardown(self) -> None:
        """Replay gives the same digest; with everything well the whole domain settles and stays settled."""
        assert self.domain.replay().digest() == self.domain.world.digest()
        self.rack.moods = {}
        self.domain.time += 3600 * SECOND
        self.rack.settle(80)
        self.check_settled()
        assert self.rack.plan() == []
        assert not self.domain.world.all(RevokedKey)
        assert all(row.value >= 0 for row in self.domain.world.all(Counter))


def test_any_life_keeps_the_invariants() -> None:
    """Uids, ports and addresses are unique, one release at most is live, scale converges, a replay gives the same digest."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
