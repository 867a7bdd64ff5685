"""What an attacker inside a jail tries to reach: source text that runs there, and the listeners that wait for it outside.

Owns `PROBES` (Python source, standard library only: TCP, UDP, Unix sockets, processes), `targets` (every address and listening port of this
machine and of the test's own namespaces, nothing else) and `waiting` (listeners on all of them, so that there is something to reach).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PROBES = '''
import errno, json, os, socket
from concurrent.futures import ThreadPoolExecutor

def reach(target):
    address, port = target
    if address.startswith("fe80") and "%" not in address:  # a link-local address means something on a link
        return "".join(reach((address + "%" + name, port)) for _, name in socket.if_nameindex())
    try:
        with socket.create_connection((address, port), 1.0) as link:
            link.settimeout(1.0)
            try: said = link.recv(16).decode("latin-1")
            except OSError: said = ""
            return "connected " + said
    except OSError as error:
        return ""

def reach_all(targets):
    with ThreadPoolExecutor(64) as pool:
        return {"%s %s" % tuple(target): said for target, said in zip(targets, pool.map(reach, targets)) if said}

def sockets_found(abstract):
    found = {}
    for name in abstract:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as link:
                link.settimeout(1.0)
                try:
                    link.connect("\\0" + name)
                    found["@" + name] = "connected"
                except (OSError, ValueError):
                    continue
    for folder, _, files in os.walk("/"):
        if folder.startswith(("/proc", "/sys")):
            continue
        for name in files:
            path = os.path.join(folder, name)
            try:
                if os.lstat(path).st_mode & 0o170000 != 0o140000:
                    continue
            except OSError:
                continue
            for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_UNIX, kind) as link:
                    try:
                        link.connect(path)
                        found[path] = "connected"
                    except OSError:
                        continue
    return found

def pids():
    """Every process in sight: those that are listed, else every number that exists."""
    try:
        return [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return [str(number) for number in range(1, 50000) if os.path.exists("/proc/%d" % number)]

def threads(pid):
    try:
        return [int(name) for name in os.listdir("/proc/%s/task" % pid)]
    except OSError:
        return [int(pid)]

def others():
    """Processes in sight that are not of our uid."""
    found = []
    for pid in pids():
        try:
            if os.stat("/proc/" + pid).st_uid != os.getuid():
                found.append(open("/proc/%s/cmdline" % pid).read())
        except OSError:
            continue
    return found

def status():
    return dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)

def own_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), 1.0):
            return "connected"
'''

LISTENER = """
import socket, sys
from threading import Thread
server = socket.create_server(('', 0), family=socket.AF_INET6, dualstack_ipv6=True)
print(server.getsockname()[1], flush=True)
def serve():
    while True:
        link, _ = server.accept()
        link.sendall(b'NAME')
        link.close()
Thread(target=serve, daemon=True).start()
sys.stdin.read()
"""


class Outside(NamedTuple):
    """What waits outside: (address, port) to try, names of abstract sockets, and one target that is known to answer on the host."""

    targets: list[tuple[str, int]]
    abstract: list[str]
    host_port: int
    ring1_port: int


def addresses(network: str = "") -> list[str]:
    """Return every address of this machine, or of the network namespace at *network*; link-local ones with their link."""
    command = [*(["nsenter", f"--net={network}"] if network else []), "ip", "-j", "address"]
    links: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    found = []
    for link in links:
        for one in link.get("addr_info", []):
            found.append(one["local"])
    return sorted(set(found))


def listening(network: str = "self") -> list[int]:
    """Return the TCP ports that somebody listens on in the network namespace of process *network*."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{network}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(found)


def abstract_names() -> list[str]:
    """Return the abstract Unix sockets of the host."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    return sorted({line.split()[-1][1:] for line in lines if line.split()[-1].startswith("@")})[:200]


@contextlib.contextmanager
def waiting(ring1_pid: int) -> Iterator[Outside]:
    """Listen on every address of the host and of ring 1's namespace, and on an abstract socket of the host."""
    network = f"/proc/{ring1_pid}/ns/net"
    with contextlib.ExitStack() as stack:
        host_port = stack.enter_context(_listener([], "host"))
        ring1_port = stack.enter_context(_listener(["nsenter", f"--net={network}"], "ring1"))
        name = f"enjin-attack-{os.getpid()}"
        bait = stack.enter_context(socket.socket(socket.AF_UNIX))
        bait.bind(f"\0{name}")
        bait.listen(8)
        host, ring1 = addresses(), addresses(network)
        targets = [(address, port) for address in host for port in sorted({*listening(), host_port})]
        inner = [address for address in ring1 if address not in ("127.0.0.1", "::1")]
        ports = sorted({*listening(str(ring1_pid)), ring1_port, host_port})
        targets += [(address, port) for address in [*inner, "10.80.0.1"] for port in ports]
        for address in ("10.0.2.2", "10.0.2.3", "10.0.3.2", "10.0.3.3", "10.0.2.100", "10.0.3.100", "127.0.0.1", "::1"):
            targets += [(address, port) for port in (ring1_port, host_port)]
        targets.append(("169.254.169.254", 80))
        yield Outside(sorted(set(targets)), [*abstract_names(), name], host_port, ring1_port)


@contextlib.contextmanager
def _listener(prefix: list[str], name: str) -> Iterator[int]:
    process = subprocess.Popen(
        [*prefix, "/usr/bin/python3", "-I", "-c", LISTENER.replace("NAME", name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def answers(address: str, port: int, network: str = "") -> bool:
    """Whether a target answers to us (in *network*), so that not reaching it means something."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 5).close()"
    prefix = ["nsenter", f"--net={network}"] if network else []
    return subprocess.run([*prefix, sys.executable, "-I", "-c", code], capture_output=True, check=False, timeout=30).returncode == 0


