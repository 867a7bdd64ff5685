"""Attacks by the root of a ring 1 jail on what runs it: a compromised ring 1 is nobody on the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.attacks.test_jail import FINISH, PRELUDE
from tests.places import temporary_home
from tests.supervision.rig import Rig, Ring1, make_runtime, rig, run_inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def ring1() -> Iterator[Ring1]:
    with temporary_home() as folder, rig(make_runtime(folder)) as one:
        one.fabric()
        yield Ring1(one)


def attack(ring1: Ring1, code: str) -> dict[str, str]:
    outer: Rig = ring1.outer
    found: dict[str, str] = run_inside(outer, ring1.running, PRELUDE + code + FINISH, uid=0)
    return found


def test_ring1_root_stays_inside(ring1: Ring1) -> None:
    """It cannot change or let go a locked mount, make devices, widen its limits, set the machine's time or load code into it."""
    found = attack(ring1, """
MS_BIND, MS_REMOUNT, MS_RDONLY = 4096, 32, 1
for path in ('/usr', '/opt/enjin', '/etc/ssl/certs', '/sys/devices/system/cpu'):
    found['remount ' + path] = call(165, b'none', path.encode(), 0, MS_REMOUNT | MS_BIND, 0)
    found['unmount ' + path] = call(166, path.encode(), 2)
found['unmount state'] = call(166, b'/var/lib/enjin', 2)
found['mount disk'] = call(165, b'/dev/vda', b'/mnt', b'ext4', 0, 0)
found['mknod'] = call(133, b'/tmp/disk', 0o060666, (254 << 8))
for name in ('memory/memory.limit_in_bytes', 'pids/pids.max', 'cpu/cpu.cfs_quota_us', 'unified/cgroup.freeze'):
    path = '/sys/fs/cgroup/' + name
    if os.path.exists(path):
        found['limit ' + path] = attempt(lambda: open(path, 'w').write('-1'))
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/vm/overcommit_memory', '/proc/sysrq-trigger', '/proc/kcore'):
    found['write ' + path] = attempt(lambda: open(path, 'r+b').write(b'x'))
found['module'] = call(175, b'', 0, b'')
found['kexec'] = call(246, 0, 0, 0, 0)
found['time'] = call(227, 0, ctypes.create_string_buffer(16))
found['bpf'] = call(321, 5, ctypes.create_string_buffer(128), 128)
found['keyctl'] = call(250, 0, -3, 0, 0, 0)
found['reboot'] = call(169, 0xfee1dead, 672274793, 0xcdef0123, 0)
found['syslog'] = call(103, 3, ctypes.create_string_buffer(100), 100)
found['open by handle'] = call(304, 3, ctypes.create_string_buffer(64), 0)
found['nice'] = attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
""")  # fmt: skip
    assert {name: said for name, said in found.items() if not said.startswith("denied")} == {}


def test_ring1_root_does_not_see_the_host(ring1: Ring1) -> None:
    """No process, file or socket of the host is in sight; its own state is, and what it makes there belongs to nobody on the host."""
    found = attack(ring1, """
found['others'] = str(len([p for p in os.listdir('/proc') if p.isdigit()]) > 9)
unseen = [pid for pid in range(2, 70000) if not os.path.exists('/proc/%d' % pid)]
found['signal'] = str([pid for pid in unseen if attempt(lambda: os.kill(pid, 0)).startswith('got')])
found['root'] = str(sorted(os.listdir('/')))
found['sockets'] = str(len(open('/proc/net/unix').read().splitlines()) < 20)
open('/var/lib/enjin/mine', 'w').write('x')
os.chmod('/var/lib/enjin/mine', 0o4777)
""")  # fmt: skip
    assert found["others"] == "False"
    assert found["signal"] == "[]"
    assert "root" in found["root"]
    assert found["sockets"] == "True"
    mine = (ring1.home / "mine").stat()
    assert mine.st_uid == ring1.spec.range  # a setuid file of a uid that is nobody here


def test_ring1_can_do_its_work(ring1: Ring1) -> None:
    """The valid twin: in its own namespaces its root makes links, rules, mounts and control groups of its own."""
    inside = ["nsenter", "-t", str(ring1.running["pid"]), "-a", "sh", "-c"]
    script = """
set -e
ip link add twin type dummy 2>/dev/null || ip link add twin type bridge
ip link del twin
nft add table inet twin && nft delete table inet twin
mkdir /tmp/twin && mount -t tmpfs twin /tmp/twin && umount /tmp/twin && rmdir /tmp/twin
test -c /dev/net/tun
"""
    done = subprocess.run([*inside, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
