"""Attacks from inside real jails (threats N50 to N55, N57, N58), each beside its valid twin.

The attacker is an app: code of a tenant, running as a service of its jail's init. It runs in a jail on the host and in one inside
a ring 1 jail. What an attack finds out it prints as JSON: "denied <errno>" or what it got.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervision import steps
from tests.places import temporary_home
from tests.supervision.rig import Channel, Rig, Ring1, app_spec, make_runtime, rig, run_inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PRELUDE = """
import ctypes, errno, json, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return 'denied ' + errno.errorcode[ctypes.get_errno()] if result < 0 else 'got %d' % result
def attempt(function):
    try:
        return 'got %r' % (function(),)
    except OSError as error:
        return 'denied ' + errno.errorcode.get(error.errno, str(error))
found = {}
"""
FINISH = "\nprint(json.dumps(found))\n"


@pytest.fixture(scope="module")
def hands() -> Iterator[Rig]:
    with temporary_home() as folder, rig(make_runtime(folder)) as one:
        one.fabric()
        yield one


@pytest.fixture(scope="module", params=["host", "ring1"])
def place(request: pytest.FixtureRequest, hands: Rig) -> Channel:
    return hands if request.param == "host" else Ring1(hands, address="10.80.0.9")


@pytest.fixture(scope="module")
def pair(place: Channel) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Two tenants' apps, side by side; the second is the victim."""
    specs = [app_spec(place, 40), app_spec(place, 41)]
    running = [place.do(steps.StartNode(spec=spec)) for spec in specs]
    yield running[0], running[1]
    for spec in specs:
        place.do(steps.DestroyNode(node=spec.node))


def attack(place: Channel, running: dict[str, Any], code: str) -> Any:
    return run_inside(place, running, PRELUDE + code + FINISH)


def test_n50_kernel_doors_are_shut(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N50: no new namespace, mount, device, trace, key, BPF, perf, io_uring, userfaultfd or kexec; ordinary calls work."""
    found = attack(place, pair[0], """
NEW = dict(user=0x10000000, mount=0x20000, pid=0x20000000, net=0x40000000, ipc=0x08000000, uts=0x04000000, cgroup=0x02000000, time=0x80)
for name, flag in NEW.items():
    found['unshare ' + name] = call(272, flag)
    found['clone ' + name] = call(56, flag | 17, 0, 0, 0, 0)
found['clone3'] = call(435, ctypes.create_string_buffer(struct.pack('QQQQQQQQ', 0x10000000, 0, 0, 0, 17, 0, 0, 0)), 64)
found['clone high bits'] = call(56, 0x1_1000_0011, 0, 0, 0, 0)
found['setns'] = call(308, os.open('/proc/self/ns/net', os.O_RDONLY), 0)
found['mount'] = call(165, b'none', b'/tmp', b'tmpfs', 0, 0)
found['fsopen'] = call(430, b'tmpfs', 0)
found['open_tree'] = call(428, -100, b'/', 1)
found['pivot_root'] = call(155, b'/', b'/')
found['chroot'] = call(161, b'/tmp')
found['mknod device'] = call(133, b'/tmp/device', 0o020666, (1 << 8) | 3)
found['ptrace'] = call(101, 16, 1, 0, 0)
found['traceme'] = call(101, 0, 0, 0, 0)
found['process_vm_readv'] = call(310, 1, 0, 0, 0, 0, 0)
found['keyctl'] = call(250, 0, -3, 0, 0, 0)
found['add_key'] = call(248, b'user', b'x', b'y', 1, -3)
found['bpf'] = call(321, 5, ctypes.create_string_buffer(128), 128)
found['perf'] = call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)
found['io_uring'] = call(425, 8, ctypes.create_string_buffer(128))
found['userfaultfd'] = call(323, 1)
found['kexec'] = call(246, 0, 0, 0, 0)
found['init_module'] = call(175, b'', 0, b'')
found['open_by_handle'] = call(304, 0, b'', 0)
found['reboot'] = call(169, 0xfee1dead, 672274793, 0, 0)
found['swapon'] = call(167, b'/tmp/x', 0)
found['settimeofday'] = call(164, b'', 0)
found['sethostname'] = call(170, b'x', 1)
found['acct'] = call(163, 0)
found['setuid 0'] = attempt(lambda: os.setuid(0))
found['packet socket'] = attempt(lambda: socket.socket(17, 3, 3))
found['raw socket'] = attempt(lambda: socket.socket(2, 3, 1))
found['netlink audit'] = attempt(lambda: socket.socket(16, 3, 9))
found['alg socket'] = attempt(lambda: socket.socket(38, 5, 0))
found['vsock'] = attempt(lambda: socket.socket(40, 1, 0))
""")  # fmt: skip
    got = {name: said for name, said in found.items() if not said.startswith("denied")}
    assert got == {}
    twin = attack(place, pair[0], """
import subprocess, threading, tempfile
thread = threading.Thread(target=lambda: found.update(thread=True)); thread.start(); thread.join()
found['exec'] = subprocess.run(['/usr/bin/true']).returncode
found['tcp'] = attempt(lambda: socket.create_server(('127.0.0.1', 0)).close())
found['netlink route'] = attempt(lambda: socket.if_nameindex() and None)
found['fifo'] = attempt(lambda: os.mkfifo('/tmp/fifo'))
with tempfile.TemporaryFile() as file: found['file'] = file.write(b'x')
""")  # fmt: skip
    assert twin == {"thread": True, "exec": 0, "tcp": "got None", "netlink route": "got None", "fifo": "got None", "file": 1}


def test_n50_neighbours_cannot_be_signalled(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N50: an app can signal its own children and nobody else; no number of another's process means anything in its jail."""
    victim = pair[1]["pid"]
    found = attack(place, pair[0], f"""
found['victim'] = attempt(lambda: os.kill({victim}, 0))
found['group'] = attempt(lambda: os.killpg({victim}, 0))
found['all'] = [pid for pid in range(2, 40000) if attempt(lambda: os.kill(pid, 0)).startswith('got') and pid != os.getpid()]
child = os.fork()
if child == 0:
    signal.pause()
found['own'] = attempt(lambda: os.kill(child, 9))
os.waitpid(child, 0)
""")  # fmt: skip
    assert found["victim"].startswith("denied")
    assert found["group"].startswith("denied")
    assert len(found["all"]) <= 1  # its own `sleep`
    assert found["own"] == "got None"


def test_n51_neighbours_cannot_be_read(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N51: no environment, command line, home, temporary file or socket of a neighbour is in sight; one's own are."""
    secret = secrets.token_hex(8)
    run_inside(place, pair[1], f"""
import os
open('/home/app/{secret}', 'w').write('x'); open('/tmp/{secret}', 'w').write('x'); print(1)""")
    found = attack(place, pair[0], f"""
names = []
for top in ('/home', '/tmp', '/var', '/run', '/dev', '/opt', '/etc'):
    for folder, directories, files in os.walk(top):
        names += [name for name in (*directories, *files) if '{secret}' in name or name.endswith('.sock')]
found['names'] = names
found['processes'] = sorted(open('/proc/%s/comm' % p).read().strip() for p in os.listdir('/proc') if p.isdigit())
found['init environment'] = attempt(lambda: open('/proc/1/environ').read())
found['init memory'] = attempt(lambda: open('/proc/1/mem', 'rb').read(1))
found['init root'] = attempt(lambda: os.listdir('/proc/1/root'))
found['init descriptors'] = attempt(lambda: os.listdir('/proc/1/fd'))
found['own environment'] = attempt(lambda: len(open('/proc/self/environ').read()) >= 0)
open('/home/app/mine', 'w').write('x')
found['own home'] = os.listdir('/home/app')
""")  # fmt: skip
    assert found["names"] == []
    assert set(found["processes"]) <= {"python", "python3", "sleep"}
    for name in ("init environment", "init memory", "init root", "init descriptors"):
        assert found[name] == "denied EACCES" or found[name] == "denied EPERM", name
    assert found["own environment"] == "got True"
    assert found["own home"] == ["mine"]


def test_n52_no_descriptor_is_inherited(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N52: a process of the jail has descriptors 0 to 2 and those of its service, whatever hands had open."""
    found = attack(place, pair[0], "found['open'] = [fd for fd in range(3, 2000) if os.path.lexists('/proc/self/fd/%d' % fd)]")
    assert found["open"] == []


def test_n53_terminal_and_setuid(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N53: no characters into a terminal, no setuid file, no core dump; a plain ioctl and a plain mode work."""
    found = attack(place, pair[0], """
import fcntl, resource, subprocess, shutil
master, slave = os.openpty()
found['TIOCSTI'] = attempt(lambda: fcntl.ioctl(slave, 0x5412, b'x'))
found['TIOCSTI high bits'] = call(16, slave, 0x1_0000_5412, b'x')
found['TIOCLINUX'] = attempt(lambda: fcntl.ioctl(slave, 0x541C, b'x'))
found['controlling terminal'] = attempt(lambda: os.open('/dev/tty', os.O_RDWR))
shutil.copy('/usr/bin/id', '/home/app/id')
found['setuid'] = attempt(lambda: os.chmod('/home/app/id', 0o4755))
found['su'] = subprocess.run(['/usr/bin/su', '-c', '/usr/bin/id -u'], stdin=subprocess.DEVNULL, capture_output=True).returncode != 0
found['core'] = resource.getrlimit(resource.RLIMIT_CORE)
found['window size'] = attempt(lambda: len(fcntl.ioctl(slave, 0x5413, b'12345678')))
found['mode'] = attempt(lambda: os.chmod('/home/app/id', 0o755))
""")  # fmt: skip
    for name in ("TIOCSTI", "TIOCSTI high bits", "TIOCLINUX", "controlling terminal", "setuid"):
        assert found[name].startswith("denied"), name
    assert found["su"] is True
    assert found["core"] == [0, 0]
    assert found["window size"] == "got 8"
    assert found["mode"] == "got None"


def test_n53_setuid_file_of_a_release_gives_nothing(hands: Rig) -> None:
    """N53: a setuid file of root inside a release runs with the app's own uid."""
    tree = hands.home / "releases" / "evil"
    tree.mkdir(parents=True, mode=0o755)
    tree.chmod(0o755)
    tree.parent.chmod(0o711)
    subprocess.run(["cp", "/usr/bin/python3", str(tree / "python")], check=True)
    (tree / "python").chmod(0o4755)
    spec = app_spec(hands, 43, mounts=(steps.Mount(root="releases", source="evil", target="/app"),))
    running = hands.do(steps.StartNode(spec=spec))
    try:
        found = attack(hands, running, """
import subprocess
done = subprocess.run(['/app/python', '-I', '-c', 'import os; print(os.geteuid())'], capture_output=True, text=True)
found['uid'] = done.stdout.strip()
found['write'] = attempt(lambda: open('/app/python', 'ab'))
""")  # fmt: skip
        assert found["uid"] == str(spec.uid)
        assert found["write"].startswith("denied")
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


def test_n54_kernel_settings_and_groups(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N54: no kernel setting, control group, device or read-only tree can be written; the temporary directory can."""
    found = attack(place, pair[0], """
paths = '''/proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger
    /proc/1/oom_score_adj /usr/bin/evil /etc/passwd /opt/enjin/evil /evil /etc/ld.so.preload /dev/evil /lib/evil'''
for path in paths.split():
    found[path] = attempt(lambda: os.open(path, os.O_WRONLY | (0 if path.startswith('/proc') else os.O_CREAT)))
found['groups'] = [folder for folder, _, files in os.walk('/sys') if 'cgroup.procs' in files]
names = [name for name in os.listdir('/dev') if os.path.exists('/dev/' + name)]
found['devices'] = [name for name in names if os.stat('/dev/' + name).st_mode & 0o170000 == 0o060000]
found['tun'] = attempt(lambda: os.open('/dev/net/tun', os.O_RDWR))
found['kmsg'] = attempt(lambda: os.open('/dev/kmsg', os.O_RDONLY))
found['twin'] = attempt(lambda: os.close(os.open('/tmp/fine', os.O_WRONLY | os.O_CREAT)))
found['null'] = attempt(lambda: os.close(os.open('/dev/null', os.O_RDWR)))
""")  # fmt: skip
    twin, null, groups, devices = (found.pop(name) for name in ("twin", "null", "groups", "devices"))
    got = {name: said for name, said in found.items() if not said.startswith("denied")}
    assert got == {}
    assert (twin, null, groups, devices) == ("got None", "got None", [], [])


def test_n55_no_way_to_host_or_neighbour(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]], hands: Rig) -> None:
    """N55: an app reaches neither the fabric's own addresses, nor a neighbour, nor metadata, nor anything else but itself."""
    inner = isinstance(place, Ring1)
    gateway, six, neighbour = ("10.80.16.1", "fd00:16::1", "10.80.16.41") if inner else ("10.80.0.1", "fd00:80::1", "10.80.0.41")
    run_inside(place, pair[1], """
import os, socket
server = socket.create_server(('0.0.0.0', 7000))
if os.fork() == 0:
    os.setsid()
    while True: server.accept()[0].close()
print(1)""")
    inside = f"/proc/{place.running['pid']}/ns/net" if isinstance(place, Ring1) else f"/run/netns/{hands.netns}"
    code = """
import socket
server = socket.create_server(('', 7001), family=socket.AF_INET6, dualstack_ipv6=True)
print('on', flush=True)
while True: server.accept()[0].close()"""
    listener = subprocess.Popen(["nsenter", f"--net={inside}", "/usr/bin/python3", "-I", "-c", code], stdout=subprocess.PIPE)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"on\n"
        found = attack(place, pair[0], f"""
def reach(address, port):
    try:
        with socket.create_connection((address, port), 0.4): return 'got'
    except OSError as error: return 'denied'
found['fabric'] = reach('{gateway}', 7001)
found['fabric six'] = reach('{six}', 7001)
found['neighbour'] = reach('{neighbour}', 7000)
found['metadata'] = reach('169.254.169.254', 80)
found['elsewhere'] = reach('192.0.2.2', 80)
server = socket.create_server(('127.0.0.1', 0))
found['twin'] = reach(*server.getsockname())
""")  # fmt: skip
        assert found.pop("twin") == "got"
        assert set(found.values()) == {"denied"}, found
        reached = subprocess.run(
            ["nsenter", f"--net={inside}", "/usr/bin/python3", "-I", "-c",
             f"import socket; socket.create_connection(('{neighbour}',7000),5)"], check=False,
        )  # the way that must work: from the fabric (where the router is) to the app
        assert reached.returncode == 0
    finally:
        listener.kill()
        listener.wait()


def test_n57_new_instance_finds_nothing_old(hands: Rig) -> None:
    """N57: a node with a recycled uid finds no file, shared memory or message queue of the one before."""
    old = app_spec(hands, 44)
    running = hands.do(steps.StartNode(spec=old))
    attack(hands, running, """
for path in ('/home/app/old', '/tmp/old', '/var/tmp/old', '/dev/shm/old'):
    open(path, 'w').write('x')
found['segment'] = call(29, 4711, 4096, 0o1666)
""")  # fmt: skip
    hands.do(steps.DestroyNode(node=old.node))
    new = app_spec(hands, 44)
    running = hands.do(steps.StartNode(spec=new))
    try:
        found = attack(hands, running, """
found['files'] = [path for path in ('/home/app/old', '/tmp/old', '/var/tmp/old', '/dev/shm/old') if os.path.exists(path)]
found['segment'] = call(29, 4711, 4096, 0o666)
""")  # fmt: skip
        assert found == {"files": [], "segment": "denied ENOENT"}
    finally:
        hands.do(steps.DestroyNode(node=new.node))


def test_n58_abstract_sockets_and_shared_memory(place: Channel, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """N58: an abstract socket or shared memory segment of one jail is not there in another, nor is the host's."""
    name = f"enjin-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX) as host:
        host.bind(f"\0{name}-host")
        host.listen(1)
        made = attack(place, pair[1], f"""
server = socket.socket(socket.AF_UNIX); server.bind('\\0{name}'); server.listen(1)
if os.fork() == 0:
    os.setsid()
    while True: server.accept()
found['segment'] = call(29, 4712, 4096, 0o1666).split()[0]
client = socket.socket(socket.AF_UNIX)
found['own'] = attempt(lambda: client.connect('\\0{name}'))
""")  # fmt: skip
        assert made == {"segment": "got", "own": "got None"}
        found = attack(place, pair[0], f"""
for name in ('{name}', '{name}-host'):
    client = socket.socket(socket.AF_UNIX)
    found[name] = attempt(lambda: client.connect('\\0' + name))
found['segment'] = call(29, 4712, 4096, 0o666)
""")  # fmt: skip
        assert set(found.values()) == {"denied ECONNREFUSED", "denied ENOENT"}


def test_control_socket_is_the_agents_only(hands: Rig) -> None:
    """The socket of a node's init can be connected by its control uid, not by another, nor by the app's."""
    spec = app_spec(hands, 45, control_uid=app_spec(hands, 90).uid)
    running = hands.do(steps.StartNode(spec=spec))
    path = Path(hands.home / running["control"])
    code = f"import socket; s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect({str(path)!r})"

    def try_as(uid: int) -> int:
        return subprocess.run(["/usr/bin/python3", "-I", "-c", code], user=uid, group=uid, extra_groups=[], capture_output=True).returncode

    try:
        assert try_as(spec.control_uid) == 0
        assert try_as(spec.uid) != 0
        assert try_as(65_534) != 0
    finally:
        hands.do(steps.DestroyNode(node=spec.node))
