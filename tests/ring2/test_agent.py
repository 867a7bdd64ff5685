"""The agent keeps each instance's process as ring 1 wants it, whatever dies: the process, the agent, the jail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.over_pipe import pack_datagram
from enjin.canonical import to_text
from enjin.errors import EnjinError, from_reply
from keys.signing import Signer
from ring2.daemon import Agent, Configuration
from ring2.daemon import main as daemon_main
from ring2.processes import ForeignControl, StaleGeneration, UnknownInstance
from supervision.instances import Exited, Failed, Health, Lines, Logged, OfferGrants, ReadLog, RunInstance, StopInstance
from tests.ring2.agents import NODE, Ring1, answers, jail, ring1, seed, server
from tests.supervision.inits import alive, wait_for

STOP = StopInstance(instance=NODE, generation=1, grace_ms=2000)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run one test's coroutine within a deadline."""
    asyncio.run(asyncio.wait_for(coroutine, 40))


def test_instance_goes_live_once(home: Path) -> None:
    """Run leads to started and ready; the same again restarts nothing and is answered with the state."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home, environment={"APP_MODE": "x"})
            await one.ask(wish)
            started, ready = await one.until("instance.started"), await one.until("instance.ready")
            assert ready["took_ms"] < 5000
            assert await answers(wish) == started["pid"]
            again = await one.ask(wish)
            assert again == {"instance": NODE, "generation": 1, "state": "ready", "pid": started["pid"]}
            assert len(one.kinds("instance.started")) == 1

    run(main())


def test_killed_process_answers_again_within_half_a_second(home: Path) -> None:
    """kill -9 of the app: the exit is reported with its signal, and it answers again at once."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home)
            await one.ask(wish)
            await one.until("instance.ready")
            first = await answers(wish)
            began = time.monotonic()
            os.kill(first, signal.SIGKILL)
            await wait_for(lambda: not alive(first))
            second = await answers(wish, 5)
            assert time.monotonic() - began < 0.5
            assert second != first
            assert (await one.until("instance.exited"))["status"] == -signal.SIGKILL
            await one.until("instance.ready", 2)

    run(main())


def test_killed_agent_takes_the_process_over(home: Path) -> None:
    """kill -9 of the agent: the app serves on, and the next agent, told the same, restarts nothing."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home)
            await one.ask(wish)
            await one.until("instance.ready")
            pid = await answers(wish)
            one.kill_agent()
            assert await answers(wish, 1) == pid
            began = time.monotonic()
            await one.start_agent()
            await one.ask(wish)
            await one.until("instance.ready", 2)
            assert time.monotonic() - began < 2
            assert await answers(wish) == pid
            assert one.kinds("instance.started")[-1]["pid"] == pid
            os.kill(pid, signal.SIGKILL)
            await one.until("instance.ready", 3)

    run(main())


def test_process_that_died_while_the_agent_was_away_is_started(home: Path) -> None:
    """The agent comes back, finds an ended process, and starts it in the same generation."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home)
            await one.ask(wish)
            await one.until("instance.ready")
            pid = await answers(wish)
            one.kill_agent()
            os.kill(pid, signal.SIGKILL)
            await one.start_agent()
            await one.ask(wish)
            await one.until("instance.ready", 2)
            assert await answers(wish) != pid

    run(main())


def test_jail_that_died_is_served_again(home: Path) -> None:
    """When the whole jail is replaced, the agent finds the new init at the same path and starts the process there."""

    async def main() -> None:
        async with ring1(home) as one:
            wish = server(home)
            async with jail(home) as init:
                await one.ask(wish)
                await one.until("instance.ready")
                init.process.kill()
                os.kill(await answers(wish), signal.SIGKILL)
                assert "init" in (await one.until("instance.unhealthy"))["text"]
            async with jail(home):
                assert (await one.until("instance.exited"))["status"] == -signal.SIGKILL
                await one.until("instance.ready", 2)
                await answers(wish)

    run(main())


def test_run_may_come_before_the_jail(home: Path) -> None:
    """An instance whose init is not there yet is pending, and starts as soon as it is."""

    async def main() -> None:
        async with ring1(home) as one:
            wish = server(home)
            assert (await one.ask(wish))["state"] == "pending"
            async with jail(home):
                await one.until("instance.ready")

    run(main())


def test_stop_ends_the_process_and_is_idempotent(home: Path) -> None:
    """Stop is answered when the process has ended; again, and for an unknown instance, it is answered at once."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home)
            await one.ask(wish)
            await one.until("instance.ready")
            pid = await answers(wish)
            assert (await one.ask(STOP))["state"] == "stopped"
            assert not alive(pid)
            assert (await one.until("instance.exited"))["again_ms"] == -1
            assert (await one.ask(STOP))["state"] == "stopped"
            await one.ask(wish)
            await one.until("instance.ready", 2)

    run(main())


def test_newer_generation_replaces_and_older_is_refused(home: Path) -> None:
    """Of two generations the higher counts."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home)
            await one.ask(wish)
            await one.until("instance.ready")
            first = await answers(wish)
            newer = server(home, generation=2, port=wish.port)
            await one.ask(newer)
            await one.until("instance.ready", 2)
            assert await answers(newer) != first
            assert not alive(first)
            for stale in (wish, STOP):
                with pytest.raises(EnjinError) as caught:
                    await one.ask(stale)
                assert caught.value.code == StaleGeneration.code

    run(main())


def test_process_that_never_answers_is_said_to_be_unhealthy(home: Path) -> None:
    """No answer on the port within the time: unhealthy with the reason, ended, and tried again."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home, environment={"APP_STATUS": "500 No"}, health=Health(timeout_s=1))
            await one.ask(wish)
            assert "it answers 500" in (await one.until("instance.unhealthy"))["text"]
            await one.until("instance.started", 2)
            assert one.kinds("instance.ready") == []

    run(main())


def test_crash_reports_what_the_process_said_and_backs_off(home: Path) -> None:
    """Each exit carries the last lines; the first restart comes at once, the next later and later."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            await one.ask(server(home, line="echo something is wrong >&2; exit 3"))
            await one.until("instance.exited", 3)
            exits = one.kinds("instance.exited")
            assert [one.get("again_ms", 0) for one in exits[:3]] == [0, 100, 200]
            assert {one["status"] for one in exits} == {3}
            assert exits[0]["text"] == "something is wrong"

    run(main())


def test_process_that_cannot_start_says_why(home: Path) -> None:
    """A missing directory is the world's fault and is tried again; what init refuses is given up."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            await one.ask(server(home, cwd="/nonexistent"))
            assert "/nonexistent" in (await one.until("instance.exited", 2))["text"]
            await one.ask(STOP)
            await one.ask(server(home, generation=2, environment={"APP_X": "bad\0value"}))
            assert (await one.until("instance.failed"))["text"]
            assert (await one.ask(server(home, generation=2)))["state"] == "failed"

    run(main())


def test_worker_needs_no_port(home: Path) -> None:
    """A worker is ready when it runs."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            await one.ask(server(home, kind="worker", port=0, line="/bin/sleep 1000", health=Health(path=None)))
            await one.until("instance.ready")

    run(main())


def test_log_lines_flow_and_can_be_read_again(home: Path) -> None:
    """Lines come as observations with number and cloud time, and by query; a flood is bounded and counted."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            script = "for i in 1 2 3; do echo line $i; done; sleep 1000"
            await one.ask(server(home, kind="worker", port=0, line=script))
            log = (await one.until("instance.log"))["log"]
            await wait_for(lambda: sum(len(seen["log"]["lines"]) for seen in one.kinds("instance.log")) == 3)
            assert abs(log["lines"][0][1] - one.speaker.now()) < 5_000_000
            read = await one.ask(ReadLog(instance=NODE, after=1))
            assert [(number, text) for number, _, text in read["lines"]] == [(2, "line 2"), (3, "line 3")]
            with pytest.raises(EnjinError) as caught:
                await one.ask(ReadLog(instance="i-00000000000000ff"))
            assert caught.value.code == UnknownInstance.code
            await one.ask(STOP)
            await one.ask(server(home, generation=2, kind="worker", port=0, line="exec yes '\"\\\u00e9'"))
            await wait_for(lambda: one.kinds("instance.log")[-1]["log"].get("dropped", 0) > 10_000, "drops")
            before = len(one.kinds("instance.log"))
            began = time.monotonic()
            await wait_for(lambda: len(one.kinds("instance.log")) >= before + 3)
            assert time.monotonic() - began > 0.2

    run(main())


def test_environment_is_never_shown(home: Path) -> None:
    """A planted value stands in no observation, answer or log of the agent, nor in the process's command line."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            wish = server(home, environment={"APP_SECRET": "canary-7f3a"})
            await one.ask(wish)
            await one.until("instance.ready")
            await one.ask(server(home, generation=2, environment={"APP_SECRET": "canary-7f3a\0"}))
            await one.until("instance.failed")
            assert "canary" not in repr(one.seen)
            assert "canary" not in (home / "agent.log").read_text()
            assert "APP_SECRET" in repr(one.kinds("instance.log"))

    run(main())


def test_bad_frames_change_nothing(home: Path) -> None:
    """Garbage, foreign keys and foreign paths are refused; the agent goes on."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            for datagram in (b"\xff", b"\x01", pack_datagram("command.instance.run", b"ENJ1garbage"), b"x" * 60_000):
                os.write(one.transport._descriptor, datagram)
            genuine, one.speaker.signer = one.speaker.signer, Signer.from_seed(seed("stranger"))
            forged = one.speaker.seal("command.instance.run", server(home), audience="a-1")
            one.speaker.signer = genuine
            await one.transport.publish("command.instance.run", forged)
            for control in ("/etc/passwd", "../instance.sock", ""):
                with pytest.raises(EnjinError) as caught:
                    await one.ask(server(home, control=control))
                assert caught.value.code == ForeignControl.code
            await one.ask(server(home))
            await one.until("instance.ready")
            assert len(one.kinds("instance.started")) == 1

    run(main())


def test_grants_are_renewed(home: Path) -> None:
    """A newer grant of the agent is believed and used; a foreign one is refused."""

    async def main() -> None:
        async with ring1(home) as one:
            answer = await one.ask(OfferGrants(grants=tuple(to_text(frame) for frame in one.chain.frames)))
            assert answer == {"grant": one.chain.agent_grant}
            with pytest.raises(EnjinError):
                await one.ask(OfferGrants(grants=(to_text(b"ENJ1"),)))

    run(main())


def test_agent_is_small(home: Path) -> None:
    """With one instance: within the target of 28 MB."""

    async def main() -> None:
        async with jail(home), ring1(home) as one:
            await one.ask(server(home))
            await one.until("instance.ready")
            assert pss_mb(one) < 28

    run(main())


def pss_mb(one: Ring1) -> float:
    """Return the agent's proportional set size."""
    assert one.process is not None
    with open(f"/proc/{one.process.pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:"))


@pytest.mark.parametrize("arguments", [[], ["--channel", "3"], ["--channel", "x", "--config", "4"], ["--config", "9999", "--channel", "3"]])
def test_wrong_usage_ends_with_a_configuration_error(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Missing words or descriptors: one line, and the exit status of a configuration error."""
    assert daemon_main(arguments) in (2, 78)
    assert capfd.readouterr().err


def test_known_codes_travel() -> None:
    """A refusal of the agent is the same class on ring 1's side."""
    assert isinstance(from_reply("E-AGT-001", "x"), StaleGeneration)
    assert RunInstance.KIND == "instance.run"


def test_what_is_seen_at_once_goes_out_under_one_signature(home: Path) -> None:
    """Ten states in one turn of the loop are one frame, in their order; lines of a log go alone, and after what was seen before them."""

    async def main() -> None:
        one = Ring1(home)
        agent = Agent(msgspec.json.decode(os.pread(one.config, 1 << 20, 0), type=Configuration), os.dup(one.theirs.fileno()))
        frames: list[str] = []
        try:
            await one.transport.subscribe("seen", lambda subject, _frame: frames.append(subject))
            await one.caller.follow("seen", one.hear)
            said = [Exited(instance=NODE, generation=1, status=number) for number in range(10)]
            assert await asyncio.gather(*(agent.report(one) for one in said)) == [True] * 10
            lines = Logged(instance=NODE, generation=1, log=Lines(source=1))
            await asyncio.gather(agent.report(Failed(instance=NODE, generation=1, text="x")), agent.report(lines))
            await wait_for(lambda: one.kinds("instance.log"), "the lines")
            assert frames == ["seen.batch", "seen.instance.failed", "seen.instance.log"]
            assert [seen["status"] for seen in one.kinds("instance.exited")] == list(range(10))
        finally:
            await agent.transport.close()
            one.close()
            await one.transport.close()

    run(main())
