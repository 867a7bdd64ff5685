"""Kill -9 of each kind of process, one at a time, under a steady load of requests through the router.

A daemon is a replaceable child: not one request fails. What serves itself (the app, HAProxy) is back at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from enjin.host import process_start_time
from tests.cloud import ROOT, process_table
from tests.e2e.clouds import BACK_S, Head, Load, Raised, Started, raised, wait_for
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
ANSWERS = 40

DAEMONS = {
    "ring 1's daemon": (1, "daemon"),
    "ring 0's daemon": (0, "daemon"),
    "ring 1's hands": (1, "hands"),
    "ring 0's hands": (0, "hands"),
    "ring 1's hub": (1, "hub"),
    "ring 0's hub": (0, "hub"),
    "the agent": (1, "agent"),
}


def service(cloud: Raised, ring: int, name: str) -> Started:
    """Return a service's process; the one agent has its compartment's id in its name."""
    names = [one for one in cloud.services(ring) if one == name or one.startswith(f"{name}-c-")]
    if len(names) != 1:
        raise LookupError(f"services {name} of ring {ring}: {names}")
    return cloud.service(ring, names[0])


@pytest.fixture(scope="module")
def hello() -> Iterator[Raised]:
    """A cloud of this module's own, with hello live in it: other modules need not live with what was killed here."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with temporary_home() as folder, raised(folder, free_port_base()) as made:
        made.push(ROOT / "examples/hello", "hello")
        yield made


def wait_settled(cloud: Raised, what: str) -> None:
    """Wait until the cloud has settled. Raises: AssertionError, with what is not as it should be and what ring 1's services wrote."""
    try:
        wait_for(lambda: cloud.settled("hello"), BACK_S, what)
    except TimeoutError as error:
        found = [cloud.run(*words, check=False).stdout for words in (("status",), ("app", "list"), ("ps", "--app", "hello"))]
        raise AssertionError("\n".join([str(error), *found, cloud.written(1)])) from error


@pytest.fixture
def load(hello: Raised) -> Iterator[Load]:
    """The shared cloud under load."""
    wait_settled(hello, "a settled cloud")
    with Load(hello, "hello") as running:
        running.wait_answers(ANSWERS)
        yield running


def app_process(cloud: Raised) -> Started:
    """Return the process of hello's one instance."""
    return cloud.one(".enjin/serve")


def heads(cloud: Raised) -> tuple[Head, Head]:
    """Return where both journals stand."""
    return cloud.head(0), cloud.head(1)


def nothing_is_lost(cloud: Raised, before: tuple[Head, Head], apps: list[dict[str, object]]) -> None:
    """Both journals go on from where they stood and verify; the apps are the same."""
    for ring, head in enumerate(before):
        verified = cloud.verify(ring)
        assert (verified["ok"], verified["first_bad"]) == (True, 0), verified
        assert verified["entries"] >= head.number
    assert cloud.json("app", "list") == apps


@pytest.mark.parametrize("what", DAEMONS)
def test_no_request_fails_when_a_daemon_dies(load: Load, what: str) -> None:
    """It is back, nothing that serves was started twice, nothing acknowledged is lost, and not one request failed."""
    cloud = load.cloud
    app, init, apps, before = app_process(cloud), cloud.init_of(1), cloud.json("app", "list"), heads(cloud)
    killed = service(cloud, *DAEMONS[what])
    os.kill(killed.pid, signal.SIGKILL)
    back = cloud.wait_back(lambda: service(cloud, *DAEMONS[what]), killed)
    wait_settled(cloud, f"the cloud after {what} was killed")
    load.wait_answers(ANSWERS)
    assert load.failures == []
    assert (app_process(cloud), cloud.init_of(1)) == (app, init)
    assert service(cloud, *DAEMONS[what]) == back
    nothing_is_lost(cloud, before, apps)


@pytest.mark.parametrize("what", ["the app", "HAProxy"])
def test_what_serves_is_back(load: Load, what: str) -> None:
    """Requests under way may fail; then it answers again without anybody's help."""
    cloud = load.cloud
    look = (lambda: app_process(cloud)) if what == "the app" else (lambda: cloud.one("haproxy"))
    killed, apps, before = look(), cloud.json("app", "list"), heads(cloud)
    os.kill(killed.pid, signal.SIGKILL)
    cloud.wait_back(look, killed)
    wait_for(lambda: cloud.answers("hello", cloud.place), BACK_S, f"an answer after {what} was killed")
    wait_settled(cloud, "a settled cloud")
    nothing_is_lost(cloud, before, apps)


def test_an_apps_init_is_mended(hello: Raised) -> None:
    """Kill -9 of PID 1 of an app's jail ends the jail; the supervisor makes it anew."""
    instance = hello.instances("hello")[0]
    app = app_process(hello)
    parent = next(process.parent for process in hello.processes() if process.pid == app.pid)
    os.kill(parent, signal.SIGKILL)
    hello.wait_back(lambda: app_process(hello), app)
    wait_settled(hello, "the app after its init was killed")
    assert [one["id"] for one in hello.instances("hello")] == [instance["id"]]


def test_a_command_in_flight_takes_effect_once(hello: Raised) -> None:
    """The daemon dies while a command is under way: the command line asks again under one key, and it is done once."""
    releases = len(hello.json("releases", "--app", "hello"))
    scaled = len(hello.instances("hello"))
    killed = service(hello, 1, "daemon")
    os.kill(killed.pid, signal.SIGSTOP)  # it takes the frame and cannot answer
    done: list[object] = []
    asking = threading.Thread(target=lambda: done.append(hello.run("restart", "--app", "hello", check=False)))
    asking.start()
    wait_for(lambda: any("restart" in process.line for process in _command_lines()), 10, "the command under way")
    os.kill(killed.pid, signal.SIGKILL)
    hello.wait_back(lambda: service(hello, 1, "daemon"), killed)
    asking.join()
    assert done[0].returncode == 0, done[0].stderr
    wait_settled(hello, "the app after its restart")
    wait_for(lambda: len(hello.instances("hello")) == scaled, BACK_S, "the old instance to end")
    assert len(hello.json("releases", "--app", "hello")) == releases
    assert hello.verify(1)["ok"]


def _command_lines() -> list[object]:
    return [process for process in process_table().values() if process.argv[-1:] == ("hello",) and "enjin" in process.line]


@pytest.mark.parametrize("ring", [1, 0])
def test_an_init_is_mended(hello: Raised, ring: int) -> None:
    """Kill -9 of an init takes what it held with it; the supervisor, or `enjin up`, brings all back with its state."""
    apps, before = hello.json("app", "list"), heads(hello)
    killed = hello.init_of(ring)
    os.kill(killed.pid, signal.SIGKILL)
    wait_for(lambda: process_start_time(killed.pid) != killed.start, 10, "the end of init")
    if ring == 0:
        hello.run("up")
    hello.wait_back(lambda: hello.init_of(ring), killed)
    wait_settled(hello, "the cloud after its init was killed")
    nothing_is_lost(hello, before, apps)
    assert "nothing to change" in hello.run("up").stderr
