"""Strategy process: hands without any privilege, as another user of the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervision import steps
from supervision.probe import try_bubblewrap
from tests.places import temporary_home
from tests.supervision.rig import FIRST_UID, Failed, Rig, alive, node_name, run_inside, sleeper, wait_until

NOBODY = FIRST_UID + 3 * 65_536


@pytest.fixture
def plain(runtime: Path) -> Iterator[Rig]:
    """A hands of an unprivileged user (the test's own where that is one already)."""
    uid = NOBODY if os.geteuid() == 0 else None
    with temporary_home() as folder:
        home = folder / "h"
        home.mkdir(mode=0o755)
        one = Rig(home, runtime, privileged=False, uids=[])
        if uid is not None:
            one.uid = uid
            one.interpreter = [str(runtime / "bin" / "python"), "-I"]
            for path in (home, home / "run"):
                os.chown(path, uid, uid)
        try:
            one.start()
            yield one
        finally:
            for node in [path.stem for path in (home / "hands" / "nodes").glob("*.json")]:
                with contextlib.suppress(Exception):
                    one.do(steps.DestroyNode(node=node))
            one.clean()


def spec_of(purpose: str = "app", **more: object) -> steps.NodeSpec:
    values: dict[str, object] = {"node": node_name(), "generation": 1, "strategy": "process", "purpose": purpose, "services": (sleeper(),)}
    return steps.NodeSpec(**{**values, **more})  # type: ignore[arg-type]


def test_an_app_of_the_current_user(plain: Rig) -> None:
    """An app runs as the current user; bubblewrap separates files and processes where it works, and the answer says what separates it."""
    spec = spec_of()
    running = plain.do(steps.StartNode(spec=spec))
    code = "import os,json; print(json.dumps([os.getuid(), len([p for p in os.listdir('/proc') if p.isdigit()])]))"
    seen = run_inside(plain, running, code)
    assert seen[0] == (NOBODY if os.geteuid() == 0 else os.geteuid())
    if try_bubblewrap(None, network=False) == "":
        assert "namespaces" in running["isolation"]
        assert seen[1] <= 3
    else:
        assert running["isolation"] == "no isolation"
    plain.do(steps.StopNode(node=spec.node, grace_ms=1000))
    assert not alive(running["pid"])
    plain.do(steps.DestroyNode(node=spec.node))
    assert not (plain.home / "nodes" / spec.node).exists()


def test_ring1_is_a_subreaper(plain: Rig) -> None:
    """Ring 1's node is an init of the current user; its processes end with it, also those that left its session."""
    code = "import subprocess,time\nsubprocess.Popen(['/usr/bin/sleep','1000'],start_new_session=True)\ntime.sleep(1000)"
    daemon = steps.Service(name="daemon", argv=("/usr/bin/python3", "-c", code), env={"STATE": "/var/lib/enjin"})
    spec = spec_of("ring1", services=(daemon,))
    running = plain.do(steps.StartNode(spec=spec))
    left = wait_until(lambda: marked(spec.node) if len(marked(spec.node)) >= 3 else None)
    plain.kill()
    plain.start()
    assert plain.do(steps.StartNode(spec=spec))["pid"] == running["pid"]
    plain.do(steps.DestroyNode(node=spec.node))
    assert [pid for pid in left if alive(pid)] == []


def marked(node: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if f"ENJIN_NODE={node}".encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def test_the_other_strategies_are_refused(plain: Rig) -> None:
    """Without privileges jail and user are refused with a hint, and the probe says why."""
    for strategy in ("jail", "user"):
        with pytest.raises(Failed) as refused:
            plain.do(steps.StartNode(spec=spec_of(strategy=strategy)))
        assert refused.value.code == "E-STP-006"
        assert "process" in refused.value.hint
    probed = plain.do(steps.Probe())["strategies"]
    assert {name: verdict["works"] for name, verdict in probed.items()} == {"jail": False, "user": False, "process": True}


def test_a_probe_on_a_machine_that_can(hands: Rig) -> None:
    """As root the probe really makes a tiny jail of each kind and says what it is made of."""
    probed = hands.do(steps.Probe())["strategies"]
    assert all(verdict["works"] for verdict in probed.values()), probed
    assert all(verdict["reason"] for verdict in probed.values())
