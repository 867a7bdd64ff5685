"""Hands: its channel, its death at any moment, and how it knows its nodes again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from enjin.host import process_start_time
from supervision import steps
from supervision.cgroups import Groups
from supervision.hands_link import HandsLink
from supervision.init_link import command
from supervision.records import NodeRecord
from tests.places import temporary_home
from tests.supervision.inits import spec_descriptor, wait_for
from tests.supervision.pids import recycle
from tests.supervision.rig import DEADLINE_S, Failed, Rig, alive, app_spec, ask_init, rig, sleeper, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def own(runtime: Path) -> Iterator[Rig]:
    """A hands that the test may kill."""
    with rig(runtime) as one:
        one.fabric()
        yield one


@pytest.mark.parametrize(
    "message",
    [
        b"{", b"[]", b'{"id":1}', b'{"id":1,"step":{}}', b'{"id":1,"step":{"kind":"node.eat"}}',
        b'{"id":1,"step":{"kind":"node.inspect","node":"../../etc"}}',
        b'{"id":1,"step":{"kind":"node.inspect","node":"node-0123456789abcdef","x":1}}',
        b'{"id":1,"step":{"kind":"probe"},"more":1}', b'{"id":1,"step":{"kind":"fabric.ensure","bridge":"eth0;reboot"}}', b"\xff" * 100,
    ],
    ids=range(10),
)  # fmt: skip
def test_a_bad_message_is_refused_and_changes_nothing(hands: Rig, message: bytes) -> None:
    """What is not a step of the table is answered by an error; the next step is carried out."""
    hands.ours.send(message)
    answer = json.loads(hands.ours.recv(1 << 16))
    assert answer["error"]["code"] == "E-STP-001"
    assert hands.do(steps.InspectAll()) == {"nodes": []}


def test_steps_name_only_what_is_ours(hands: Rig) -> None:
    """No fabric of another cloud, none in the host's own namespace, no root that was not given, no way through a link."""
    for step in (
        steps.EnsureFabric(bridge="enjffffff0", netns="enjin-ffffff"),
        steps.EnsureFabric(bridge="apps"),
        steps.ReplaceRules(rules=(steps.Rule(chain="input", verdict="drop"),)),
        steps.SealTree(root="etc", source="ssl"),
        steps.RemoveTree(root="etc", path="passwd"),
        steps.StartNode(spec=app_spec(hands, 60, mounts=(steps.Mount(root="host", source="/etc", target="/app"),))),
    ):
        with pytest.raises(Failed) as refused:
            hands.do(step)
        assert refused.value.code == "E-STP-001", step
    assert subprocess.run(["ip", "link", "show", "apps"], capture_output=True, check=False).returncode != 0
    assert Path("/etc/passwd").exists()
    releases = hands.home / "releases"
    releases.mkdir(exist_ok=True)
    (releases / "sly").symlink_to("/etc")
    with pytest.raises(Failed) as refused:
        hands.do(steps.StartNode(spec=app_spec(hands, 60, mounts=(steps.Mount(root="releases", source="sly/ssl", target="/app"),))))
    assert refused.value.code == "E-STP-001"


def test_kill_of_hands_ends_nothing(own: Rig) -> None:
    """What hands started goes on without it; the next hands takes it up, starts nothing twice, and still tells when it ends."""
    spec = app_spec(own, 61)
    before = own.do(steps.StartNode(spec=spec))
    own.kill()
    assert alive(before["pid"])
    own.start()
    after = own.do(steps.InspectNode(node=spec.node))
    assert (after["pid"], after["state"]) == (before["pid"], "running")
    assert own.do(steps.StartNode(spec=spec))["pid"] == before["pid"]
    assert len(Groups(own.tag).processes(spec.node)) == 3  # bubblewrap's monitor, init, its service
    os.kill(before["pid"], signal.SIGKILL)
    assert own.event(spec.node)["generation"] == 1
    own.do(steps.DestroyNode(node=spec.node))


def test_a_step_is_not_lost_with_the_hands_that_took_it(own: Rig) -> None:
    """INV-HNL-1: hands dies between a step and its answer; the channel stays open, and the next hands answers whoever still waits."""
    own.kill()
    taken = own.home / "taken"
    own.environment |= {"ENJIN_FAILPOINT": "hands.answer.send:kill9:2", "ENJIN_FAILPOINT_LOG": str(taken)}  # after its first word
    own.start()
    died = own.process
    assert died is not None

    async def ask() -> steps.Seen:
        link = HandsLink(os.dup(own.ours.fileno()), lambda _event: None)
        asking = asyncio.create_task(link.step(steps.InspectAll(), steps.Seen, timeout_s=DEADLINE_S))
        await wait_for(lambda: died.poll() is not None, "the death of hands", DEADLINE_S)
        assert taken.read_text() == "hands.answer.send\n"
        assert not asking.done()
        own.kill()
        own.start()
        try:
            return await asking
        finally:
            link.close()

    assert asyncio.run(ask()).nodes == ()


def test_a_step_that_is_asked_twice_at_once_is_carried_out_once(own: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon asks again when hands begin, and what it asked before may still lie in the channel: one start, and one answer."""
    own.kill()
    spec = app_spec(own, 64)
    number = own.send(steps.StartNode(spec=spec))
    own.number -= 1
    assert own.send(steps.StartNode(spec=spec)) == number
    own.start()
    started, heard, receive = own.answer(number), [], own._receive
    monkeypatch.setattr(own, "_receive", lambda end: heard.append(receive(end)) or heard[-1])  # type: ignore[func-returns-value]
    assert own.do(steps.InspectNode(node=spec.node))["pid"] == started["pid"]  # after whatever else waits for the node
    assert number not in [message.get("id") for message in heard]
    own.do(steps.DestroyNode(node=spec.node))


def test_kill_of_hands_in_the_middle_of_a_start(own: Rig) -> None:
    """Killed at many points of a start, hands comes back to a node that runs once or not at all; the next start makes it run once."""
    for delay_ms in (2, 8, 14, 20, 28, 40):
        spec = app_spec(own, 62)
        own.send(steps.StartNode(spec=spec))
        end = process_clock() + delay_ms / 1000
        wait_until(lambda: process_clock() >= end)  # noqa: B023
        own.kill()
        while select_ready(own):
            own.ours.recv(1 << 20)
        own.start()
        running = own.do(steps.StartNode(spec=spec))
        assert running["state"] == "running"
        wait_until(lambda: len(Groups(own.tag).processes(spec.node)) == 3)  # noqa: B023
        own.do(steps.DestroyNode(node=spec.node))
        assert Groups(own.tag).nodes() == set()


def process_clock() -> float:
    import time

    return time.monotonic()


def select_ready(own: Rig) -> bool:
    import select

    return bool(select.select([own.ours], [], [], 0)[0])


def test_n43_a_recycled_pid_is_not_ours(own: Rig) -> None:
    """N43: a process that has the recorded pid, but not its start time and groups, is neither taken for the node nor signalled."""
    spec = app_spec(own, 63)
    running = own.do(steps.StartNode(spec=spec))
    own.kill()
    os.kill(running["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(running["pid"]))
    stranger = recycle(running["pid"])
    try:
        own.start()
        assert own.do(steps.InspectNode(node=spec.node))["state"] == "gone"
        assert own.do(steps.StartNode(spec=spec))["pid"] != stranger.pid
        own.do(steps.DestroyNode(node=spec.node))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_n43_a_record_that_lies_harms_nobody(own: Rig) -> None:
    """A record that names another process (right pid and start time, other groups) does not make hands end that process."""
    spec = app_spec(own, 64)
    own.do(steps.StartNode(spec=spec))
    own.do(steps.StopNode(node=spec.node, grace_ms=500))
    bystander = subprocess.Popen(["/usr/bin/sleep", "1000"])
    try:
        path = own.home / "hands" / "nodes" / f"{spec.node}.json"
        record = msgspec.json.decode(path.read_bytes(), type=NodeRecord)
        plain = msgspec.to_builtins(record)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        plain["phase"] = "running"
        plain["identity"] = {"pid": bystander.pid, "started": process_start_time(bystander.pid), "boot": boot, "cgroups": {"": "/nowhere"}}
        own.kill()
        path.write_bytes(msgspec.json.encode(plain))
        own.start()
        own.do(steps.DestroyNode(node=spec.node))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_damaged_record_concerns_its_own_node(own: Rig) -> None:
    """A record that cannot be read stops neither hands nor the other nodes."""
    spec = app_spec(own, 65)
    own.do(steps.StartNode(spec=spec))
    (own.home / "hands" / "nodes" / "node-ffffffffffffffff.json").write_text("{")
    own.kill()
    own.start()
    assert [one["node"] for one in own.do(steps.InspectAll())["nodes"]] == [spec.node]
    with pytest.raises(Failed) as refused:
        own.do(steps.InspectNode(node="node-ffffffffffffffff"))
    assert refused.value.code == "E-STP-001"
    own.do(steps.DestroyNode(node=spec.node))


def test_a_hanging_worker_is_replaced(own: Rig) -> None:
    """A network worker that hangs delays one step to its deadline; the next step works."""
    spec = app_spec(own, 66)
    own.do(steps.StartNode(spec=spec))
    worker = next(
        int(name) for name in os.listdir("/proc")
        if name.isdigit() and own.process is not None and parent_of(int(name)) == own.process.pid and is_worker(int(name))
    )  # fmt: skip
    os.kill(worker, signal.SIGSTOP)
    number = own.send(steps.InspectNode(node=spec.node))
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(Failed) as failed:
        own.answer(number)
    assert failed.value.code == "E-STP-005"
    assert own.do(steps.InspectNode(node=spec.node))["state"] == "running"
    own.do(steps.DestroyNode(node=spec.node))


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def is_worker(pid: int) -> bool:
    return b"supervision.hands" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_one_node_does_not_wait_for_another(hands: Rig) -> None:
    """A slow stop of one node delays no other."""
    code = "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf', flush=True)\nwhile 1: signal.pause()"
    stubborn = steps.Service(name="main", argv=("/usr/bin/python3", "-c", code))
    slow, quick = app_spec(hands, 67, services=(stubborn,)), app_spec(hands, 68)
    running = hands.do(steps.StartNode(spec=slow))
    wait_until(lambda: "deaf" in str(ask_init(hands.home / running["control"], {"op": "logs", "name": "main"})))
    number = hands.send(steps.StopNode(node=slow.node, grace_ms=1500))
    hands.do(steps.StartNode(spec=quick))
    hands.do(steps.DestroyNode(node=quick.node))
    assert alive(running["pid"])
    hands.answer(number, DEADLINE_S)
    assert not alive(running["pid"])
    hands.do(steps.DestroyNode(node=slow.node))


def test_listeners_are_taken_from_the_own_init(runtime: Path) -> None:
    """Hands takes a node's listeners by name from its own init, at the start and later; a name that init has not is refused."""
    code = "import socket\ns=socket.socket(fileno=5)\nwhile True:\n  c,_=s.accept(); c.sendall(b'inside'); c.close()"
    with temporary_home() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        path = folder / "init.sock"
        listeners = [{"name": "web", "address": "127.0.0.1", "port": port}]
        spec = {"name": "outer", "subreaper": True, "controls": [{"path": str(path), "role": "supervisor"}], "listeners": listeners}
        descriptor = spec_descriptor(spec)
        init = subprocess.Popen(command(descriptor), pass_fds=[descriptor])
        os.close(descriptor)
        try:
            wait_until(path.exists)
            with rig(runtime, init=str(path)) as one:
                one.fabric()
                serve = steps.Service(name="serve", argv=("/usr/bin/python3", "-I", "-c", code), fds={"5": "listener:web"})
                app = app_spec(one, 70, services=(serve,), listeners=("web",))
                one.do(steps.StartNode(spec=app))
                with socket.create_connection(("127.0.0.1", port), 5) as client:
                    assert client.recv(100) == b"inside"
                later = app_spec(one, 71)
                running = one.do(steps.StartNode(spec=later))
                one.do(steps.GiveListeners(node=later.node, listeners=("web",)))
                _, (taken,) = ask_init(one.home / running["control"], {"op": "take", "handle": "listener:web"})
                with socket.socket(fileno=taken) as server:
                    assert server.getsockname() == ("127.0.0.1", port)
                with pytest.raises(Failed) as refused:
                    one.do(steps.StartNode(spec=app_spec(one, 72, listeners=("none",))))
                assert refused.value.code == "E-INI-002"
        finally:
            init.terminate()
            init.wait()


def test_a_directory_that_others_can_change_is_refused(runtime: Path) -> None:
    """Hands does not start where somebody else could lead what it writes elsewhere: a foreign owner, a link, a writable directory."""
    for spoil in (
        lambda path: (path.mkdir(), os.chown(path, 65_534, 65_534)),
        lambda path: path.symlink_to("/var/tmp"),
        lambda path: (path.mkdir(), path.chmod(0o777)),
    ):
        with temporary_home() as folder:
            home = folder / "h"
            home.mkdir()
            spoil(home / "hands")
            one = Rig(home, runtime)
            try:
                one.start()
                assert one.process is not None
                assert one.process.wait(DEADLINE_S) == 2
                assert "only hands' own user can change" in one.said()
            finally:
                one.clean()


def test_hands_stays_small(hands: Rig) -> None:
    """Hands keeps below its 45 MB of proportional memory; the network library lives in its worker."""
    spec = app_spec(hands, 69, services=(sleeper(),))
    hands.do(steps.StartNode(spec=spec))
    hands.do(steps.DestroyNode(node=spec.node))
    assert hands.process is not None
    text = Path(f"/proc/{hands.process.pid}/smaps_rollup").read_text()
    assert int(text.split("Pss:")[1].split()[0]) < 45_000
    assert "pyroute2" not in Path(f"/proc/{hands.process.pid}/maps").read_text()
