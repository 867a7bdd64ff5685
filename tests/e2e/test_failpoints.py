"""Kill -9 at named failpoints: whichever process of a real cloud passes the point dies there, and the cloud mends itself.

One cloud without isolation (whose processes all see one log file) is taken down and up again for each fault. A run kills at a few
points, chosen by the commit; `./bootstrap test --all-failpoints` at all of them, each at its first, second and last pass.
"""

from __future__ import annotations

import json
import random
import shutil
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
    "briefing.send", "compartment.condemn", "compartment.ended", "compartment.forget", "directory.sync",
    "errand.spawn", "file.rename", "file.sync", "group.down.send", "group.up.send",
    "hands.answer.send", "hands.ask.send", "hands.settings.write", "health.send", "held.spawn", "hub.pass.send", "hub.ready.send",
    "hub.spawn", "hub.trial.send", "hub.zap.send", "identity.write", "init.answer.send", "init.ask.send", "init.fork", "init.spawn",
    "instance.spawn", "journal.answer", "journal.close", "journal.commit", "journal.committed", "journal.entries.write",
    "journal.projection.write", "journal.requests.write", "lowering.hands.spawn", "observation.send", "pipe.send", "question.send",
    "relay.send", "request.send", "router.control.send", "router.spawn", "seed.destroy.sync", "source.git.spawn", "tree.rename",
    "tree.sync", "witness.send", "worker.spawn", "zmq.push.send",
)  # fmt: skip
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

    def use(self) -> int:
        """Push, set, scale, ask, make, shred and destroy; return the number of the release that was acknowledged."""
        self.change()
        pushed = self.push(self.source, "hello")
        self.run("config", "set", f"NUMBER={self.pushes}", "--app", "hello")
        self.run("ps", "scale", f"web={1 + self.pushes % 2}", "--app", "hello")
        self.run("ask", "ping", "--where", "all", check=False)
        self.run("compartment", "create", f"place-{self.pushes}")
        self.run("compartment", "shred", f"place-{self.pushes}", "--yes", check=False)
        self.run("compartment", "destroy", f"place-{self.pushes}", "--yes", check=False)
        return int(pushed["release"])


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


def chosen() -> list[tuple[str, str]]:
    """Return the faults of this run: others with every commit."""
    return random.Random(seed()).sample([(name, time) for name in PASSED for time in TIMES[:2]], CHOSEN)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A few faults, or all."""
    if "fault" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all-failpoints")
        faults = [(name, time) for name in PASSED for time in TIMES] if everything else chosen()
        metafunc.parametrize("fault", faults, ids=[f"{name}-{time}" for name, time in faults])


def test_every_point_is_one_of_the_code(request: pytest.FixtureRequest) -> None:
    """At least forty points are killed at, and each is one of the code's; the output says how many of them this run leaves out."""
    if not request.config.getoption("--all-failpoints"):
        say(request.config, len(PASSED) * len(TIMES) - CHOSEN, "points and times of a whole cloud")
    assert len(PASSED) >= 40
    assert sorted(set(PASSED) - {name for name, _path in points()}) == []


@pytest.fixture(scope="module")
def counted(down: Faulty, request: pytest.FixtureRequest) -> Counter[str]:
    """How often each point is passed, counted once where all are to be killed at."""
    if not request.config.getoption("--all-failpoints"):
        return Counter()
    down.log.unlink(missing_ok=True)
    down.environment |= {"ENJIN_FAILPOINT": "*:count", "ENJIN_FAILPOINT_LOG": str(down.log)}
    down.up()
    down.use()
    down.run("down")
    found = Counter(down.log.read_text().split())
    down.disarm()
    assert sorted(set(PASSED) - set(found)) == [], "these points were not passed"
    return found


def test_killed_there_the_cloud_mends_itself(stage: Faulty, counted: Counter[str], fault: tuple[str, str]) -> None:
    """Nothing acknowledged is lost, no push takes effect twice, both journals verify, and the app answers, without anybody's repair."""
    name, time = fault
    nth = {"first": 1, "second": 2}.get(time, max(3, counted[name] * 3 // 4))  # the number of passes differs a little from run to run
    if counted and counted[name] < nth:
        pytest.skip(f"{name} is passed {counted[name]} times in such a run")
    stage.disarm()
    stage.arm(f"{name}:kill9:{nth}")
    stage.up()
    before = max(one["release"] for one in stage.json("releases", "--app", "hello"))
    release = stage.use()
    stage.run("down")
    died = stage.log.exists()
    stage.disarm()
    stage.up()
    wait_for(lambda: stage.answers("hello"), BACK_S, f"hello after a death at {name}")
    releases = [one["release"] for one in stage.json("releases", "--app", "hello")]
    assert release in releases
    assert len(releases) == len(set(releases))
    assert before < max(releases) <= before + 2 * ATTEMPTS  # a push and a setting each, and their repetitions by whoever saw them fail
    verified = json.loads(stage.run("audit", "verify", "--json").stdout)
    assert (verified["ok"], len(verified["rings"])) == (True, 2), verified
    stage.run("down")
    left = [process for process in process_table().values() if str(stage.home) in process.line]
    assert left == []
    assert died or nth > 1, f"nobody passed {name}"
    assert not died or stage.log.read_text() == f"{name}\n"
