"""Kill -9 at named failpoints: whichever process of a real cloud passes the point dies there, and the cloud mends itself.

One cloud without isolation (whose processes all see one log file) is taken down and up again for each fault. A run kills at a few
points, chosen by the commit; `./bootstrap test --all-failpoints` at all of them, each at its first, second and last pass.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud import COMMAND_S_MAX, ROOT, Cloud, CommandFailed, process_table, wait_for
from tests.failpoints_found import points, say, seed
from tests.places import free_port_base, temporary_home

pytestmark = pytest.mark.timeout(240)

# What a cloud passes while it is raised, used and taken down; the counting test holds this list to the truth.
PASSED = (
    "agent.configuration.write", "agent.observation.send", "agent.spawn", "answer.send", "blob.link", "blob.rename", "blob.sync",
    "briefing.send", "directory.sync", "errand.spawn", "file.rename", "file.sync", "group.down.send", "group.up.send",
    "hands.answer.send", "hands.ask.send", "hands.settings.write", "health.send", "held.spawn", "hub.pass.send", "hub.ready.send",
    "hub.spawn", "hub.trial.send", "hub.zap.send", "identity.write", "init.answer.send", "init.ask.send", "init.fork", "init.spawn",
    "instance.spawn", "journal.answer", "journal.close", "journal.commit", "journal.committed", "journal.entries.write",
    "journal.projection.write", "journal.requests.write", "lowering.hands.spawn", "observation.send", "pipe.send", "question.send",
    "relay.send", "request.send", "router.control.send", "router.spawn", "seed.destroy.sync", "source.git.spawn", "tree.rename",
    "tree.sync", "witness.send", "worker.spawn", "zmq.push.send",
    "child.beacon.send", "compartment.condemn", "compartment.ended", "compartment.forget", "time.ask",
)  # fmt: skip
# Passed once in a cloud's life, by the `enjin up` that makes it.
FOUNDING = ("runtime.rename", "shares.rename")
# What a process passes once for each time that something is done, which is done three times for its second and third pass.
AGAIN = {
    "agent.configuration.write": "idle", "agent.spawn": "idle", "blob.link": "push", "blob.rename": "push", "blob.sync": "push",
    "compartment.condemn": "destroy", "compartment.ended": "destroy", "compartment.forget": "destroy", "group.down.send": "ask",
    "group.up.send": "ask", "seed.destroy.sync": "destroy", "tree.rename": "push", "tree.sync": "push",
}  # fmt: skip
# What no process of this cloud passes a second, or a third, time: how often it does, and why not more often.
FEWER = {
    "errand.spawn": (2, "one errand for each hands that a daemon's start asks for"),
    "hands.settings.write": (1, "hands are given their settings at their start"),
    "hub.ready.send": (1, "a hub is ready once"),
    "hub.spawn": (1, "a daemon has one hub started"),
    "identity.write": (1, "ring 0 writes the identity of its one node at its start"),
    "init.spawn": (1, "one command starts one init"),
    "journal.close": (2, "a daemon closes its journal and its copy of another's at its end"),
    "lowering.hands.spawn": (1, "`enjin down` starts hands once"),
    "question.send": (2, "a command line asks two rings once"),
    "router.spawn": (1, "ring 1 has its router started at its start"),
    "source.git.spawn": (1, "a command line packs one source"),
    "time.ask": (1, "each 10 s, and a run is hardly longer"),
    "worker.spawn": (1, "hands start a worker once"),
}
# What this cloud never passes, and why not.
NEVER = {
    **dict.fromkeys(
        ("nats.server.spawn", "nats.relay.send", "nats.accounts.send", "nats.link.send", "nats.outbox.send", "nats.spawn",
         "runtime.server.rename", "move.new.send", "move.old.send", "move.only.send"), "only on a bus of NATS, or on the way to one",
    ),
    **dict.fromkeys(
        ("firewall.spawn", "jail.spawn", "fabric.forget.spawn", "worker.ask.send", "worker.answer.send"),
        "only where nodes are jails with a network of their own, from which the log of a fault cannot be seen",
    ),
    **dict.fromkeys(("unit.spawn", "unit.stop.spawn", "unit.reload.spawn", "daemon.notify.send"), "only under systemd"),
    **dict.fromkeys(("forward.send", "forwarded.answer.send"), "only between daemons that share a journal"),
    "init.heir.send": "only when an init of ring 0's is made anew while ring 1's lives",
    "journal.verify.spawn": "only for a journal that is worth several processes",
    "memory.send": "only in tests: the bus within one process",
    "migration.rename": "only when a journal moves to PostgreSQL",
    "time.send": "ring 1 is told the time by its identity, and asks again each 10 s: a run is hardly longer",
    "tree.copy.rename": "only for a build's file that has other names",
}  # fmt: skip
TIMES = ("first", "second", "last")
CHOSEN = 2
BACK_S = 60.0
ATTEMPTS = 3


class Faulty(Cloud):
    """A cloud one of whose processes, the command line among them, dies once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port_base(), ("--ring1", "process"))
        self.log = folder / "fault"
        self.source = folder / "source"
        self.pushes = 0
        self.counted: Counter[str] = Counter()

    def arm(self, setting: str) -> None:
        """Let the next start have this fault."""
        self.log.unlink(missing_ok=True)
        self.environment |= {"ENJIN_FAILPOINT": setting, "ENJIN_FAILPOINT_LOG": str(self.log)}

    def disarm(self) -> None:
        """Let what is started from now on have none."""
        self.environment = {key: value for key, value in self.environment.items() if not key.startswith("ENJIN_FAILPOINT")}

    def run(self, *words: str, check: bool = True, cwd: Path = ROOT, seconds: float = COMMAND_S_MAX) -> subprocess.CompletedProcess[str]:
        """Run `enjin`; what fails because a process has just died is asked again, as a person would."""
        for _ in range(ATTEMPTS):
            before = self.log.exists()
            done = super().run(*words, check=False, cwd=cwd, seconds=seconds)
            if done.returncode == 0 or (before and words[0] != "up") or not self.log.exists():
                break
            if words[0] != "up":
                super().run("up", *self.options, check=False, cwd=cwd, seconds=seconds)
        if check and done.returncode != 0:
            raise CommandFailed(f"enjin {' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def change(self) -> None:
        """Give the app's source other bytes."""
        self.pushes += 1
        shutil.copytree(ROOT / "examples/hello", self.source, dirs_exist_ok=True)
        (self.source / "change.txt").write_text(f"{self.pushes}\n")

    def use(self, again: str = "") -> int:
        """Push, set, scale, ask, make, shred and destroy, what *again* names three times; return the acknowledged release."""
        for _ in self.times("push", again):
            self.change()
            pushed = self.push(self.source, "hello")
        self.run("config", "set", f"NUMBER={self.pushes}", "--app", "hello")
        if again == "idle":
            for _ in self.times("idle", again):
                self.run("ps", "scale", "web=0", "--app", "hello")
                wait_for(lambda: not self.json("ps", "--app", "hello"), BACK_S, "no instance")
                self.run("ps", "scale", "web=1", "--app", "hello")
        self.run("ps", "scale", f"web={1 + self.pushes % 2}", "--app", "hello")
        for _ in self.times("ask", again):
            self.run("ask", "ping", "--where", "all", check=False)
        for number in self.times("destroy", again):
            place = f"place-{self.pushes}-{number}"
            self.run("compartment", "create", place)
            self.run("compartment", "shred", place, "--yes", check=False)
            self.run("compartment", "destroy", place, "--yes", check=False)
        return int(pushed["release"])

    @staticmethod
    def times(part: str, again: str) -> range:
        """Return how often *part* is done where *again* is to be done three times."""
        return range(3 if part == again else 1)


@pytest.fixture
def stage(down: Faulty) -> Iterator[Faulty]:
    """The cloud, taken down, and down again afterwards whatever happened."""
    yield down
    down.disarm()
    down.run("down", check=False)


@pytest.fixture(scope="module")
def down() -> Iterator[Faulty]:
    """A cloud with hello in it, taken down."""
    with temporary_home() as folder:
        cloud = Faulty(folder)
        try:
            cloud.up()
            cloud.use()
            cloud.run("down")
            yield cloud
        finally:
            cloud.disarm()
            cloud.down()


FAULTS = [(name, time) for name in PASSED for time in TIMES[: FEWER.get(name, (3, ""))[0]]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All faults, or a few: others with every commit."""
    everything, chance = metafunc.config.getoption("--all-failpoints"), random.Random(seed())
    if "fault" in metafunc.fixturenames:
        often = [fault for fault in FAULTS if fault[1] != "last"]  # how often that is must be counted first
        faults = FAULTS if everything else chance.sample(often, CHOSEN)
        metafunc.parametrize("fault", faults, ids=[f"{name}-{time}" for name, time in faults])
    if "founding" in metafunc.fixturenames:
        metafunc.parametrize("founding", FOUNDING if everything else chance.sample(FOUNDING, 1))


def test_every_point_of_the_code_is_killed_at_or_it_is_said_why_not(request: pytest.FixtureRequest) -> None:
    """At least forty are killed at; a new point has to stand in one of the tables; the output says how many faults are left out."""
    if not request.config.getoption("--all-failpoints"):
        say(request.config, len(FAULTS) - CHOSEN + len(FOUNDING) - 1, "points and times of a whole cloud")
    assert len(PASSED) >= 40
    assert sorted([*PASSED, *FOUNDING, *NEVER]) == sorted(name for name, _path in points())
    assert set(AGAIN) | set(FEWER) <= set(PASSED)
    assert set(AGAIN).isdisjoint(FEWER)


@pytest.fixture(scope="module")
def counted(down: Faulty, request: pytest.FixtureRequest) -> Counter[str]:
    """How often the process that passes it most passes each point, counted once where all are to be killed at."""
    if not request.config.getoption("--all-failpoints"):
        return Counter()
    down.log.unlink(missing_ok=True)
    down.environment |= {"ENJIN_FAILPOINT": "*:count", "ENJIN_FAILPOINT_LOG": str(down.log)}
    down.up()
    down.use()
    down.run("down")
    passes = Counter(tuple(line.split()) for line in down.log.read_text().splitlines())
    found: Counter[str] = Counter()
    for (name, _pid), count in passes.items():
        found[name] = max(found[name], count)
    down.disarm()
    assert sorted(set(PASSED) - set(found)) == [], "these points were not passed"
    return found


def test_killed_there_the_cloud_mends_itself(stage: Faulty, counted: Counter[str], fault: tuple[str, str]) -> None:
    """Nothing acknowledged is lost, no push takes effect twice, both journals verify, and the app answers, without anybody's repair."""
    name, time = fault
    again = AGAIN.get(name, "") if time != "first" else ""
    # The number of passes differs from run to run: the last is the latest that is still reached.
    late = [max(3, counted[name] * share // 8) for share in (6, 4, 2)]
    died, before, release, nth = False, 0, 0, 0
    for nth in {"first": [1], "second": [2]}.get(time, late):
        stage.disarm()
        stage.arm(f"{name}:kill9:{nth}")
        stage.up()
        before = max(one["release"] for one in stage.json("releases", "--app", "hello"))
        release = stage.use(again)
        stage.run("down")
        if died := stage.log.exists():
            break
    stage.disarm()
    stage.up()
    wait_for(lambda: stage.answers("hello"), BACK_S, f"hello after a death at {name}")
    releases = [one["release"] for one in stage.json("releases", "--app", "hello")]
    assert release in releases
    assert len(releases) == len(set(releases))
    # A push and a setting each, and their repetitions by whoever saw them fail.
    assert before < max(releases) <= before + (1 + len(stage.times("push", again))) * ATTEMPTS
    verified = json.loads(stage.run("audit", "verify", "--json").stdout)
    assert (verified["ok"], len(verified["rings"])) == (True, 2), verified
    stage.run("down")
    left = [process for process in process_table().values() if str(stage.home) in process.line]
    assert left == []
    assert died, f"no process passed {name} {nth} times"
    assert stage.log.read_text() == f"{name}\n"


def test_killed_while_it_is_founded(founding: str) -> None:
    """`enjin up` dies where it makes what a cloud has once; the next one makes a whole cloud."""
    with temporary_home() as folder:
        cloud = Faulty(folder)
        try:
            cloud.arm(f"{founding}:kill9:1")
            died = Cloud.run(cloud, "up", *cloud.options, check=False)
            assert (died.returncode, cloud.log.read_text()) == (-signal.SIGKILL, f"{founding}\n"), died.stderr
            cloud.disarm()
            cloud.up()
            cloud.use()
            wait_for(lambda: cloud.answers("hello"), BACK_S, f"hello after a death at {founding}")
            verified = json.loads(cloud.run("audit", "verify", "--json").stdout)
            assert (verified["ok"], len(verified["rings"])) == (True, 2), verified
        finally:
            cloud.disarm()
            cloud.down()
