"""Attacks from inside a build's jail, the only one with a way out: what it must not reach, beside what it must."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervision import steps
from tests.attacks.test_jail import attack
from tests.places import temporary_home
from tests.supervision.rig import Rig, Ring1, app_spec, make_runtime, rig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

REACH = """
def reach(address, port):
    try:
        with socket.create_connection((address, port), 1.5) as link:
            link.settimeout(1.5)
            return 'got' + link.recv(10).decode()
    except OSError as error: return 'denied'
from concurrent.futures import ThreadPoolExecutor
def reach_all(targets):
    with ThreadPoolExecutor(32) as pool:
        return dict(zip(map(str, targets), pool.map(lambda target: reach(*target), targets)))
"""


@pytest.fixture(scope="module")
def hands() -> Iterator[Rig]:
    with temporary_home() as folder, rig(make_runtime(folder)) as one:
        one.fabric()
        yield one


@pytest.fixture
def host_server() -> Iterator[int]:
    """A server on every address of the host, on a free port."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link:
                    link.sendall(b"host")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def own_addresses() -> list[str]:
    """Return the host's own IPv4 addresses, loopback left out."""
    text = subprocess.run(["ip", "-4", "-o", "addr", "show", "scope", "global"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3].split("/")[0] for line in text.splitlines()]


def test_a_build_reaches_the_outside_and_nothing_of_ours(hands: Rig, host_server: int) -> None:
    """A build resolves names and opens connections to the outside; loopback, metadata and own addresses of host and ring 1 stay shut."""
    ring1 = Ring1(hands, address="10.80.0.7", outgoing=True)
    spec = app_spec(ring1, 50, purpose="build", interface=None, outgoing=True, closed=("198.51.100.0/24",))
    running = ring1.do(steps.StartNode(spec=spec))
    inside = f"/proc/{ring1.running['pid']}/ns/net"
    code = """
import socket
server = socket.create_server(('', 7001))
print('on', flush=True)
while True:
    link, _ = server.accept()
    link.sendall(b'ring1')
    link.close()"""
    listener = subprocess.Popen(["nsenter", f"--net={inside}", "/usr/bin/python3", "-I", "-c", code], stdout=subprocess.PIPE)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"on\n"
        addresses = own_addresses()
        found = attack(ring1, running, REACH + f"""
targets = [(address, {host_server}) for address in ('127.0.0.1', '10.0.2.2', '10.0.3.2', '10.80.0.1', *{addresses!r})]
targets += [(address, 7001) for address in ('127.0.0.1', '10.0.2.2', '10.0.3.2', '10.0.2.100', '10.80.16.1', '10.80.0.7')]
found.update(reach_all(targets + [('169.254.169.254', 80)]))
""")  # fmt: skip
        assert {name: said for name, said in found.items() if said != "denied"} == {}
        inner = subprocess.run(
            ["nsenter", f"--net={inside}", "/usr/bin/python3", "-I", "-c",
             f"import socket; socket.create_connection(('{addresses[0]}',{host_server}),1.5)"], capture_output=True, check=False,
        )  # fmt: skip
        assert inner.returncode != 0  # not even ring 1 itself
    finally:
        listener.kill()
        listener.wait()
    rules = subprocess.run(["nsenter", f"--net={inside}", "nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert f"skuid {spec.uid}" in rules
    ring1.do(steps.DestroyNode(node=spec.node))
    rules = subprocess.run(["nsenter", f"--net={inside}", "nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert f"skuid {spec.uid}" not in rules
    hands.do(steps.DestroyNode(node=ring1.node))
    ring1.close()


def test_a_build_can_talk_through_its_way_out(hands: Rig) -> None:
    """The valid twin: what is not closed answers, by address and by name (a server in a namespace that stands for the outside)."""
    ring1 = Ring1(hands, address="10.80.0.6", outgoing=True)
    spec = app_spec(ring1, 51, purpose="build", interface=None, outgoing=True)
    running = ring1.do(steps.StartNode(spec=spec))
    try:
        found = attack(ring1, running, """
found['resolver'] = open('/etc/resolv.conf').read().split()[1]
query = b'\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x04pypi\\x03org\\x00\\x00\\x01\\x00\\x01'
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    link.settimeout(5)
    link.sendto(query, (found['resolver'], 53))
    found['answer'] = attempt(lambda: len(link.recv(600)) > 12)
""")  # fmt: skip
        assert found["resolver"] == "10.0.3.3"
        if Path("/etc/resolv.conf").read_text().find("nameserver") >= 0 and found["answer"] != "got True":
            pytest.skip("the machine's own resolver does not answer")
        assert found["answer"] == "got True"
    finally:
        hands.do(steps.DestroyNode(node=ring1.node))
        ring1.close()


def test_no_way_out_from_the_hosts_own_namespace(hands: Rig) -> None:
    """A build directly on the host is refused: it would need rules in the host's network namespace, which gets nothing."""
    from tests.supervision.rig import Failed

    spec = app_spec(hands, 52, purpose="build", interface=None, outgoing=True)
    with pytest.raises(Failed) as refused:
        hands.do(steps.StartNode(spec=spec))
    assert refused.value.code == "E-STP-006"
