"""Control groups: found as they are mounted, mended when someone moves processes out, and a certain end."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from pathlib import Path

import pytest

from supervision import steps
from supervision.cgroups import Groups, Layout
from tests.supervision.rig import Rig, alive, app_spec, wait_until

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_layouts(tmp_path: Path) -> None:
    """Version 1, version 2 and the hybrid are told apart by what is mounted; a joint mount counts once."""

    def layout(mounts: str, own: str) -> Layout:
        (tmp_path / "mounts").write_text(mounts)
        (tmp_path / "own").write_text(own)
        return Layout.probe(str(tmp_path / "mounts"), str(tmp_path / "own"))

    base = tmp_path / "cgroup"
    for name in ("memory", "cpu,cpuacct", "pids", "unified", "pure/system.slice/enjin.service"):
        (base / name).mkdir(parents=True)
    (base / "unified" / "cgroup.controllers").write_text("hugetlb\n")
    (base / "pure/system.slice/enjin.service/cgroup.controllers").write_text("cpu memory pids\n")
    hybrid = layout(
        f"cgroup {base}/memory cgroup rw,memory 0 0\ncgroup {base}/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        f"cgroup {base}/pids cgroup rw,pids 0 0\ncgroup2 {base}/unified cgroup2 rw 0 0\n",
        "3:memory:/\n2:cpu,cpuacct:/\n1:pids:/\n0::/\n",
    )
    assert {h.key: (h.version, set(h.controllers)) for h in hybrid.hierarchies} == {
        "memory": (1, {"memory"}), "cpu,cpuacct": (1, {"cpu", "cpuacct"}), "pids": (1, {"pids"}), "": (2, set()),
    }  # fmt: skip
    pure = layout(f"cgroup2 {base}/pure cgroup2 rw 0 0\n", "0::/system.slice/enjin.service/supervisor\n")
    assert [(h.root, h.version, set(h.controllers)) for h in pure.hierarchies] == [
        (f"{base}/pure/system.slice/enjin.service", 2, {"cpu", "memory", "pids"})
    ]


@root
def test_finish_ends_a_fork_bomb() -> None:
    """Processes that fork as fast as they are killed still end, and the groups go with them."""
    groups = Groups(secrets.token_hex(3))
    node = "node-0123456789abcdef"
    groups.create(node, steps.Limits(processes=60))
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", "import os,sys; os.read(0,1); exec(sys.argv[1])", bomb], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        groups.attach(node, process.pid)
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.close()
        wait_until(lambda: len(groups.processes(node)) > 20)
        asyncio.run(groups.finish(node))
        assert groups.nodes() == set()
    finally:
        process.kill()
        process.wait()
        groups.kill(node)
        groups.remove_parent()


@root
def test_a_group_removed_by_hand_is_put_back(hands: Rig) -> None:
    """When someone moves a node's processes out and removes the group, inspection says so and the next start mends it."""
    spec = app_spec(hands, 100)
    running = hands.do(steps.StartNode(spec=spec))
    groups = Groups(hands.tag)
    members = groups.processes(spec.node)
    try:
        for hierarchy in groups.layout.hierarchies:
            for pid in members:
                Path(f"{hierarchy.root}/cgroup.procs").write_text(str(pid))
            os.rmdir(f"{hierarchy.root}/enjin-{hands.tag}/{spec.node}")
            seen = hands.do(steps.InspectNode(node=spec.node))
            assert (seen["state"], seen["missing"]) == ("running", [f"cgroup:{hierarchy.key or 'unified'}"])
            assert hands.do(steps.StartNode(spec=spec))["pid"] == running["pid"]
            assert "missing" not in hands.do(steps.InspectNode(node=spec.node))
            assert groups.processes(spec.node) >= members - {pid for pid in members if not alive(pid)}
    finally:
        hands.do(steps.DestroyNode(node=spec.node))
    assert not any(alive(pid) for pid in members)
