"""What ring 0's init is told, the ports that it needs, and what of a cloud is left on a host."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from ring0 import launch
from ring0.foundation import Foundation
from ring0.registry import Registry

RUNTIME = Path("/r")


def foundation(port_base: int, privileged: bool = True) -> Foundation:
    """Return a cloud's foundation."""
    return Foundation(
        cloud="0a1b2c" + "0" * 58, node="n", operator="o", root="", privileged=privileged, ring1="jail" if privileged else "process",
        port_base=port_base, first_uid=600_000, checkout="/c", founded=0,
    )  # fmt: skip


def test_ports_follow_from_the_base(home: Path, port_base: int) -> None:
    """The APIs are at the base and after it, the router a thousand above; all free ones pass."""
    made = foundation(port_base)
    assert launch.ports(made) == {"router": port_base + 1000, "api0": port_base, "api1": port_base + 1}
    launch.check_ports(made, home)


@pytest.mark.parametrize(("name", "offset"), [("router", 1000), ("api0", 0), ("api1", 1)])
def test_a_taken_port_is_named(home: Path, port_base: int, name: str, offset: int) -> None:
    """Whoever listens on one of them already is said to, by port and name, and nothing is left bound."""
    made = foundation(port_base)
    with socket.create_server(("127.0.0.1", port_base + offset)), pytest.raises(launch.PortTaken, match=f"{port_base + offset} .{name}."):
        launch.check_ports(made, home)
    launch.check_ports(made, home)


@pytest.mark.parametrize("privileged", [True, False])
def test_init_is_told_everything(home: Path, port_base: int, privileged: bool) -> None:
    """Two services that share one channel, the daemon without root, every listener, and sockets for their owners alone."""
    (home / "init").mkdir()
    made = foundation(port_base, privileged)
    registry = Registry(paths=("/srv/wheels",))
    hands = launch.hands_settings(made, home, RUNTIME, registry, ("192.0.2.1",))
    told = json.loads(json.dumps(launch.init_specification(made, home, RUNTIME, hands)))
    services = {service["name"]: service for service in told["services"]}
    assert [service["restart"] for service in services.values()] == ["always"] * 2
    assert services["daemon"]["uid"] == (600_000 if privileged else os.geteuid())
    assert "uid" not in services["hands"]
    assert {services[name]["fds"]["3"] for name in services} == {"channel:hands:0", "channel:hands:1"}
    assert {one["port"] for one in told["listeners"]} == set(launch.ports(made).values())
    assert {control["mode"] for control in told["controls"]} == {0o600}
    assert json.loads((home / "init/hands.json").read_bytes()) == hands
    assert (hands["privileged"], bool(hands["uids"])) == (privileged, privileged)
    assert (home / "init/hands.json").stat().st_mode & 0o777 == 0o600


def test_init_runs_when_it_answers(home: Path) -> None:
    """A socket that nobody listens on, or none at all, is no init."""
    (home / "init").mkdir()
    assert not launch.init_runs(home)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(home / launch.INIT_SOCKET))
        assert not launch.init_runs(home)
        listening.listen(1)
        assert launch.init_runs(home)
    assert not launch.init_runs(home)


def test_an_init_that_ends_at_once_is_told(home: Path, port_base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started and ends at once is a failure with its status, not a wait."""
    for name in ("init", "log", "r/bin", "r/lib/python3.11/site-packages/supervision/init"):
        (home / name).mkdir(parents=True)
    (home / "r/bin/python").symlink_to("/bin/false")
    (home / "r/lib/python3.11/site-packages/supervision/init/__main__.py").touch()
    monkeypatch.setattr(launch, "systemd_runs", lambda: False)
    with pytest.raises(launch.InitFailed, match="status 1"):
        launch.start_init(home, home / "r", foundation(port_base), {})


def test_build_settings_are_read_as_written(home: Path) -> None:
    """Ring 0's daemon reads what `enjin up` left, and nobody else can."""
    (home / "init").mkdir()
    registry = Registry(environment={"PIP_INDEX_URL": "file:///x"}, paths=("/srv/wheels",))
    launch.write_build_settings(home, RUNTIME, registry, ("192.0.2.1",), os.geteuid())
    found = launch.read_build_settings(home)
    assert (found["runtime"], found["environment"]) == (str(RUNTIME), registry.environment)
    assert (found["paths"], found["closed"]) == (["/srv/wheels"], ["192.0.2.1"])


def test_nothing_of_an_unknown_cloud_is_left(port_base: int) -> None:
    """Leftovers are known by the cloud's own tag alone."""
    assert launch.leftovers(foundation(port_base)) == []
