"""Hypothesis drives the simulated cloud, and makes the shortest story of whatever goes wrong."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.sim import invariants
from tests.sim.acts import Acts
from tests.sim.cloud import RINGS, simulated

NAMES = st.sampled_from(RINGS)
SHARE = st.sampled_from((0.0, 0.1, 0.3, 0.6))
PEOPLE_MAX = 4


class CloudMachine(RuleBasedStateMachine):
    """People's wishes and every fault in any order; after each step, what was acknowledged is there."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="enjin-sim-", dir=place))
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    @initialize(seed=st.integers(0, 2**20))
    def raise_cloud(self, seed: int) -> None:
        """Three rings come up."""
        self.cloud = self.stack.enter_context(simulated(self.folder / "cloud", seed))
        self.acts = Acts(self.cloud)

    @rule(kind=st.integers(0, 4), who=st.integers(0, PEOPLE_MAX))
    def wish(self, kind: int, who: int) -> None:
        """Somebody wants something."""
        self.acts.wish(kind, who)

    @rule(which=st.integers(0, 15))
    def repeat(self, which: int) -> None:
        """The operator asks once more under a request of before."""
        self.acts.repeat(which)

    @precondition(lambda self: len(self.cloud.persons) < PEOPLE_MAX)
    @rule()
    def enlist(self) -> None:
        """Another person gets a key."""
        self.acts.enlist()

    @rule(which=st.integers(0, PEOPLE_MAX))
    def revoke(self, which: int) -> None:
        """Somebody's key is revoked."""
        self.acts.revoke(which)

    @rule(lose=SHARE, repeat=SHARE, reorder=SHARE, slow_s=SHARE)
    def disturb(self, lose: float, repeat: float, reorder: float, slow_s: float) -> None:
        """The bus loses, repeats, reorders and is slow."""
        self.acts.disturb(lose, repeat, reorder, slow_s)

    @rule(sender=NAMES, receiver=NAMES)
    def cut(self, sender: str, receiver: str) -> None:
        """One ring hears another no longer."""
        self.acts.cut(sender, receiver)

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        """A daemon is killed."""
        self.acts.crash(name)

    @rule(name=NAMES, after=st.integers(1, 60), power=st.booleans())
    def crash_at(self, name: str, after: int, power: bool) -> None:
        """A daemon will be killed within its I/O."""
        self.acts.crash_at(name, after, power=power)

    @rule(seconds=st.sampled_from((0.001, 0.01, 0.1, 1.0, 5.0)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.cloud.advance(seconds)

    @rule()
    def settle(self) -> None:
        """Everything heals and is checked."""
        self.acts.settle()

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        """What was answered with success stands in the journal's file, whichever daemons are down right now."""
        if not hasattr(self, "cloud"):
            return
        told = [one for person in self.cloud.persons for one in person.told]
        for ring, name in ((0, "ring0"), (1, "ring1")):
            process = self.cloud.processes[name]
            if process.life is not None and process.life.alive:
                invariants.check_acknowledged(invariants.journal_path(self.cloud, ring), [one for one in told if one.ring == ring])

    def teardown(self) -> None:
        """Heal, check everything, and end."""
        try:
            if hasattr(self, "acts"):
                self.acts.settle()
        finally:
            self.stack.close()


def test_any_story_ends_well(request) -> None:  # type: ignore[no-untyped-def]
    """Stories that Hypothesis makes up; as many as `--seeds` says, each time others, or a few that are always the same."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    many = request.config.getoption("--seeds")
    run_state_machine_as_test(
        CloudMachine,
        settings=settings(
            max_examples=many or 5,
            stateful_step_count=16,
            deadline=None,
            derandomize=not many,
            database=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink) if many else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
