"""Strategy user: a locked-down UNIX user without a mount namespace sees and reaches its own things only."""

from __future__ import annotations

import os

import pytest

from supervision import landlock, steps
from tests.supervision.rig import Failed, Rig, app_spec, run_inside

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no landlock"),
]

CODE = """
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(function):
    try:
        return 'got %r' % (function(),)
    except OSError as error:
        return 'denied ' + errno.errorcode.get(error.errno, str(error))
def call(*arguments):
    return 'denied' if libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)) < 0 else 'got'
found = {}
"""


def test_a_locked_down_user(hands: Rig) -> None:
    """Own uid, network namespace, home and tree; no other file, process, signal, namespace or address of the host."""
    tree = hands.home / "releases" / "fine"
    tree.mkdir(parents=True)
    (tree / "hello.txt").write_text("hello")
    tree.parent.chmod(0o711)
    mounts = (steps.Mount(root="releases", source="fine", target="/app"),)
    spec = app_spec(hands, 80, strategy="user", mounts=mounts, environment={"TREE": "/app"})
    other = app_spec(hands, 81, strategy="user")
    running = hands.do(steps.StartNode(spec=spec))
    victim = hands.do(steps.StartNode(spec=other))
    try:
        assert "landlock" in running["isolation"]
        home = hands.home / "nodes" / spec.node / "home"
        found = run_inside(hands, running, CODE + f"""
for path in ('/etc/passwd', '/etc/shadow', '/root', '/var/log', '/tmp', '/proc/{victim['pid']}/environ', '/proc/1/cmdline', '/home',
             '{hands.home}/nodes/{other.node}/home', '{hands.home}/hands/nodes/{spec.node}.json', '/sys/fs/cgroup/pids/cgroup.procs'):
    found[path] = attempt(lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
found['write tree'] = attempt(lambda: open('{tree}/evil', 'w'))
found['write usr'] = attempt(lambda: open('/usr/evil', 'w'))
found['signal'] = attempt(lambda: os.kill({victim['pid']}, 0))
found['signal root'] = attempt(lambda: os.kill(1, 0))
found['userns'] = call(272, 0x10000000)
found['ptrace'] = call(101, 16, {victim['pid']}, 0, 0)
found['mount'] = call(165, b'none', b'/tmp', b'tmpfs', 0, 0)
found['setuid'] = attempt(lambda: os.setuid(0))
found['host loopback'] = attempt(lambda: socket.create_connection(('127.0.0.1', 22), 0.3))
print(json.dumps(found))
""")  # fmt: skip
        assert {name: said for name, said in found.items() if not said.startswith("denied")} == {}
        twin = run_inside(hands, running, CODE + f"""
found['uid'] = os.getuid()
found['tree'] = open('{tree}/hello.txt').read()
open('{home}/x', 'w').write('x')
found['home'] = os.listdir('{home}')
found['links'] = sorted(name for _, name in socket.if_nameindex())
print(json.dumps(found))
""")  # fmt: skip
        assert twin == {"uid": spec.uid, "tree": "hello", "home": ["x"], "links": ["eth0", "lo"]}
    finally:
        hands.do(steps.DestroyNode(node=spec.node))
        hands.do(steps.DestroyNode(node=other.node))


def test_paths_are_translated(hands: Rig) -> None:
    """A service that names /app or /home/app gets the paths where these are on the host."""
    tree = hands.home / "releases" / "paths"
    tree.mkdir(parents=True)
    (tree / "main.py").write_text("import os, time\nopen(os.environ['OUT'] + '/said', 'w').write(os.getcwd())\ntime.sleep(1000)\n")
    tree.parent.chmod(0o711)
    service = steps.Service(name="main", argv=("/usr/bin/python3", "/app/main.py"), cwd="/app", env={"OUT": "/home/app"})
    spec = app_spec(hands, 82, strategy="user", mounts=(steps.Mount(root="releases", source="paths", target="/app"),), services=(service,))
    hands.do(steps.StartNode(spec=spec))
    try:
        from tests.supervision.rig import wait_until

        said = hands.home / "nodes" / spec.node / "home" / "said"
        assert wait_until(lambda: said.exists() and said.read_text()) == str(tree)
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


def test_user_cannot_be_ring1(hands: Rig) -> None:
    """A ring 1 node or a build is not possible by this strategy, and it says so."""
    out = app_spec(hands, 83, strategy="user", outgoing=True, interface=None)
    for spec in (out, app_spec(hands, 83, strategy="user", purpose="ring1")):
        with pytest.raises(Failed) as refused:
            hands.do(steps.StartNode(spec=spec))
        assert refused.value.code == "E-STP-001"
