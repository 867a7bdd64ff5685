"""Jails: ring 1 with a root and uids of its own, apps on the host and inside ring 1, and nothing left of either."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervision import steps
from supervision.cgroups import Groups
from tests.supervision.rig import FIRST_UID, Failed, Rig, Ring1, alive, app_spec, ask_init, node_name, rig, run_inside, sleeper, wait_until


@pytest.fixture(scope="module")
def ring1(hands: Rig) -> Ring1:
    return Ring1(hands)


ROOT = {"app", "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run", "sbin", "tmp", "usr", "var"}
LOOK = """
import json, os
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({
    'uid': os.getuid(), 'pids': sorted(int(p) for p in os.listdir('/proc') if p.isdigit()), 'root': sorted(os.listdir('/')),
    'first': os.readlink('/proc/self/ns/user'), 'caps': status['CapEff'].strip(), 'nnp': status['NoNewPrivs'].strip(),
    'seccomp': status['Seccomp'].strip(), 'home': os.listdir('/home/app'), 'fds': sorted(int(f) for f in os.listdir('/proc/self/fd')),
}))
"""


@pytest.mark.parametrize("where", ["host", "ring1"])
def test_app_jail_sees_only_itself(hands: Rig, ring1: Ring1, where: str) -> None:
    """An app runs under its own uid without any right, in a root of its own, on the host and inside ring 1 alike."""
    place = hands if where == "host" else ring1
    spec = app_spec(place, 20)
    running = place.do(steps.StartNode(spec=spec))
    try:
        assert running["state"] == "running"
        seen = run_inside(place, running, LOOK)
        assert seen["uid"] == spec.uid
        assert len(seen["pids"]) <= 3
        assert seen["caps"] == "0" * 16
        assert seen["nnp"] == "1"
        assert seen["seccomp"] == "2"
        assert set(seen["root"]) <= ROOT
        assert seen["fds"] == [0, 1, 2, 3]  # 3 is the listing's own
    finally:
        place.do(steps.DestroyNode(node=spec.node))


def test_ring1_is_nobody_on_the_host(hands: Rig, ring1: Ring1) -> None:
    """Ring 1's root is an unprivileged uid of the host, in namespaces of its own; its hands divide its control groups."""
    pid = ring1.running["pid"]
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert os.stat(f"/proc/{pid}").st_uid in (0, FIRST_UID + 65_536)  # 0 while init is not dumpable
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert fields["Uid"].split() == [str(FIRST_UID + 65_536)] * 4


def test_ring1_tree_hides_the_host(hands: Rig, ring1: Ring1) -> None:
    """No mount of a ring 1 jail shows a path of the host but /usr, the few files of /etc, the runtime and its own state."""
    lines = Path(f"/proc/{ring1.running['pid']}/mountinfo").read_text().splitlines()
    virtual = ("tmpfs", "proc", "devpts", "cgroup", "cgroup2", "sysfs")
    disk = {line.split()[4]: line.split()[5] for line in lines if line.split(" - ")[1].split()[0] not in virtual}
    assert {"/usr", "/opt/enjin", "/var/lib/enjin"} <= set(disk)
    assert all(place.startswith(("/usr", "/etc/", "/opt/enjin", "/var/lib/enjin")) for place in disk)
    assert [place for place, options in disk.items() if "ro" not in options.split(",")] == ["/var/lib/enjin"]
    line = ["nsenter", "-t", str(ring1.running["pid"]), "-a", "ls", "-A", "/root", "/home", "/mnt"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout.split() == ["/home:", "/mnt:", "/root:"]


def test_a_file_of_the_host_is_shown_where_it_lies(runtime: Path) -> None:
    """A file that the machine's own settings name reaches a jail within ring 1's under its own path, and cannot be written."""
    shown = "/etc/debian_version"
    mounts = (steps.Mount(root="host", source=shown, target=shown),)
    with rig(runtime, host_paths=[shown]) as outer:
        outer.fabric()
        ring1 = Ring1(outer, mounts=mounts, config={"host_paths": [shown]})
        try:
            running = ring1.do(steps.StartNode(spec=app_spec(ring1, 10, mounts=mounts)))
            code = f"import json, os; print(json.dumps([open({shown!r}).read(), os.access({shown!r}, os.W_OK)]))"
            assert run_inside(ring1, running, code) == [Path(shown).read_text(), False]
        finally:
            outer.do(steps.DestroyNode(node=ring1.node))
            ring1.close()


def test_a_started_node_is_answered_not_started_again(hands: Rig) -> None:
    """The same generation is answered with what runs; an older one is refused; a newer one replaces it."""
    spec = app_spec(hands, 21)
    first = hands.do(steps.StartNode(spec=spec))
    try:
        assert hands.do(steps.StartNode(spec=spec))["pid"] == first["pid"]
        newer = hands.do(steps.StartNode(spec=app_spec(hands, 21, node=spec.node, generation=2)))
        assert newer["pid"] != first["pid"]
        assert not alive(first["pid"])
        with pytest.raises(Failed) as refused:
            hands.do(steps.StartNode(spec=spec))
        assert refused.value.code == "E-STP-002"
        with pytest.raises(Failed) as stale:
            hands.do(steps.DestroyNode(node=spec.node, generation=1))
        assert stale.value.code == "E-STP-002"
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


FORKS = """
import json, os, time
count = 0
try:
    for _ in range(60):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except OSError:
    pass
print(json.dumps(count))
"""
OPENED = """
import json
kept = []
try:
    for _ in range(200):
        kept.append(open('/dev/null'))
except OSError:
    pass
print(json.dumps(len(kept)))
"""


def test_limits_bite(hands: Rig) -> None:
    """Memory and the number of processes are limited by control groups, open files by a resource limit."""
    spec = app_spec(hands, 22, limits=steps.Limits(memory_bytes=96 << 20, processes=20, files=100, cpu_millicores=500))
    running = hands.do(steps.StartNode(spec=spec))
    try:
        assert run_inside(hands, running, FORKS, leftovers="kill") < 20
        assert run_inside(hands, running, OPENED, files=100) <= 97
        hog = {"name": "hog", "generation": 1, "argv": ["/usr/bin/python3", "-c", "x=bytearray(300<<20)"], "restart": "never"}
        ask_init(hands.home / running["control"], {"op": "spawn", "service": hog})

        def ended() -> object:
            services = ask_init(hands.home / running["control"], {"op": "list"})[0]["services"]
            return next((one for one in services if one["name"] == "hog" and not one["pid"]), None)

        assert wait_until(ended)["status"] == -9
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


def test_a_build_cannot_fill_the_disk(hands: Rig) -> None:
    """A node that writes more than its limit, in many small files, is ended; one below it goes on; a build can write to its output only."""
    spec = app_spec(
        hands, 33, purpose="build", interface=None, limits=steps.Limits(memory_bytes=256 << 20, processes=64, disk_bytes=4 << 20),
        mounts=(steps.Mount(root="nodes", source="node-0123456789abcdef/out", target="/out", writable=True),), node="node-0123456789abcdef",
    )  # fmt: skip
    running = hands.do(steps.StartNode(spec=spec))
    try:
        small = "import json\nopen('/out/a','wb').write(bytes(1<<20))\nprint(json.dumps(True))"
        assert run_inside(hands, running, small)
        fill = ["/usr/bin/python3", "-c", "i=0\nwhile 1:\n  open(f'/out/{i}','wb').write(bytes(65536)); i+=1"]
        ask_init(hands.home / running["control"], {"op": "spawn", "service": {"name": "fill", "argv": fill, "restart": "never"}})
        assert hands.event(spec.node)["status"] == -9
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


def test_sealing_ends_who_could_still_write(hands: Rig) -> None:
    """What a build left running is ended before its tree is sealed; its init goes on to answer for it; the release does not change."""
    node = "node-0123456789abcdef"
    out = steps.Mount(root="nodes", source=f"{node}/out", target="/out", writable=True)
    running = hands.do(steps.StartNode(spec=app_spec(hands, 35, purpose="build", interface=None, mounts=(out,), node=node)))
    code = """
import json, os, time
os.mkdir('/out/tree')
open('/out/tree/file', 'w').write('built')
if os.fork() == 0:
    os.setsid()
    kept = open('/out/tree/file', 'w')
    while True:
        kept.write('changed'); kept.flush(); kept.seek(0); time.sleep(0.001)
time.sleep(0.05)
print(json.dumps(True))"""
    try:
        run_inside(hands, running, code)
        sealed = hands.do(steps.SealTree(root="nodes", source=f"{node}/out/tree"))
        release = hands.home / "releases" / sealed["path"]
        assert sealed["entries"] == 1
        assert hands.do(steps.InspectNode(node=node))["pid"] == running["pid"]
        assert ask_init(hands.home / running["control"], {"op": "list"})[0]["services"]
        assert len(Groups(hands.tag).processes(node)) == 2
        assert (release / "file").stat().st_mode & 0o777 == 0o444
        assert not (hands.home / "nodes" / node / "out" / "tree").exists()
    finally:
        hands.do(steps.DestroyNode(node=node))
    hands.do(steps.RemoveTree(root="releases", path=sealed["path"]))


def test_a_foreign_writable_mount_is_refused(hands: Rig) -> None:
    """A node may write only below its own directory."""
    for source in ("node-0000000000000000/out", "node-0123456789abcdef", "node-0123456789abcdef/a/b"):
        mount = steps.Mount(root="nodes", source=source, target="/out", writable=True)
        with pytest.raises(Failed) as refused:
            hands.do(steps.StartNode(spec=app_spec(hands, 34, node="node-0123456789abcdef", mounts=(mount,))))
        assert refused.value.code == "E-STP-001"
    hands.do(steps.DestroyNode(node="node-0123456789abcdef"))


def test_destroy_leaves_nothing(hands: Rig) -> None:
    """After destroy no process, group, link, socket, directory or record of the node is there."""
    spec = app_spec(hands, 23)
    running = hands.do(steps.StartNode(spec=spec))
    inner = run_inside(hands, running, "import os,json\nopen('/home/app/x','w').write('1')\nprint(json.dumps(os.listdir('/home/app')))")
    assert inner == ["x"]
    hands.do(steps.DestroyNode(node=spec.node))
    assert not alive(running["pid"])
    found = subprocess.run(["find", str(hands.home), "-name", f"*{spec.node}*"], capture_output=True, text=True, check=True)
    assert found.stdout == ""
    groups = subprocess.run(["find", "/sys/fs/cgroup", "-name", spec.node], capture_output=True, text=True, check=True)
    assert groups.stdout == ""
    links = subprocess.run(["ip", "-n", hands.netns, "-o", "link"], capture_output=True, text=True, check=True)
    assert spec.node.rpartition("-")[2][:6] not in links.stdout
    assert hands.do(steps.DestroyNode(node=spec.node)) == {}


def test_home_is_kept_over_a_stop(hands: Rig) -> None:
    """Stop keeps the node's home; the next start finds it; destroy removes it."""
    spec = app_spec(hands, 24)
    running = hands.do(steps.StartNode(spec=spec))
    run_inside(hands, running, "open('/home/app/kept','w').write('1'); print(1)")
    hands.do(steps.StopNode(node=spec.node, grace_ms=2000))
    assert hands.do(steps.InspectNode(node=spec.node))["state"] == "stopped"
    again = hands.do(steps.StartNode(spec=spec))
    assert run_inside(hands, again, "import os,json; print(json.dumps(os.listdir('/home/app')))") == ["kept"]
    hands.do(steps.DestroyNode(node=spec.node))
    assert not (hands.home / "nodes" / spec.node).exists()


def test_listeners_go_in_by_descriptor(hands: Rig) -> None:
    """A listening socket of the host is served from inside the jail."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = "import socket\ns=socket.socket(fileno=5)\nwhile True:\n  c,_=s.accept(); c.sendall(b'inside'); c.close()"
        serve = steps.Service(name="serve", argv=("/usr/bin/python3", "-I", "-c", code), fds={"5": "listener:web"})
        spec = app_spec(hands, 25, services=(serve,), listeners=("web",))
        hands.do(steps.StartNode(spec=spec), descriptors=(server.fileno(),))
        try:
            with socket.create_connection(server.getsockname(), 5) as client:
                assert client.recv(100) == b"inside"
        finally:
            hands.do(steps.DestroyNode(node=spec.node))


def test_failed_start_leaves_nothing(hands: Rig) -> None:
    """A start that fails says why and leaves no process or group behind; the next try works."""
    spec = app_spec(hands, 26, mounts=(steps.Mount(root="releases", source="no-such", target="/app"),))
    with pytest.raises(Failed) as failed:
        hands.do(steps.StartNode(spec=spec))
    assert failed.value.code == "E-STP-001"
    assert subprocess.run(["find", "/sys/fs/cgroup", "-name", spec.node], capture_output=True, text=True, check=True).stdout == ""
    good = app_spec(hands, 26, node=spec.node)
    assert hands.do(steps.StartNode(spec=good))["state"] == "running"
    hands.do(steps.DestroyNode(node=spec.node))


def test_uids_outside_the_block_are_refused(hands: Rig) -> None:
    """No step makes a node run under a uid that is not the cloud's."""
    for spec in (
        app_spec(hands, 27, uid=0),
        app_spec(hands, 27, uid=1000),
        steps.NodeSpec(node=node_name(), generation=1, strategy="jail", purpose="ring1", range=0, services=(sleeper(),)),
    ):
        with pytest.raises(Failed) as refused:
            hands.do(steps.StartNode(spec=spec))
        assert refused.value.code == "E-STP-001"


def test_the_exit_of_a_node_is_told(hands: Rig) -> None:
    """When a node's init ends, hands says so with its generation and status."""
    spec = app_spec(hands, 28)
    running = hands.do(steps.StartNode(spec=spec))
    ask_init(hands.home / running["control"], {"op": "end", "grace_ms": 1000})
    event = hands.event(spec.node)
    assert (event["event"], event["generation"], event["status"]) == ("node.exited", 1, 0)
    hands.do(steps.DestroyNode(node=spec.node))


def test_start_within_the_target(hands: Rig) -> None:
    """An app's jail with network, limits, uid and filter takes a fraction of a second, also on a busy machine."""
    import time

    spec = app_spec(hands, 29)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        hands.do(steps.StartNode(spec=spec))
        times.append(time.perf_counter() - begun)
        hands.do(steps.DestroyNode(node=spec.node))
    assert min(times) < 0.3, times
