"""router_ratio: requests per second through our router to an app in its jail, over those of HAProxy alone in front of the same app.

The app on the other side is the same release, built by the same builder and started by hand on loopback by the same line; both take turns
under the same load, and the median turn counts. An app may use half a core by default, which would be all that is measured: so the
limit of this one is lifted, and the processor is left to both ways alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Peer, Row, rows
from tests.cloud import ROOT, Cloud, wait_for
from tests.places import free_port_base

HELLO = ROOT / "examples/hello"
TURNS = 3
SECONDS = 4
CONNECTIONS = 32
CONFIGURATION = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:{front}
    default_backend app
backend app
    server app 127.0.0.1:{app}
"""


def requests_per_s(host: str, port: int, name: str) -> float:
    """Load http://host:port/ for a few seconds with *name* as Host and return the rate.

    Raises:
        ValueError: A request failed or was answered by an error.
    """
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-H", f"Host: {name}", f"http://{host}:{port}/"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise ValueError(f"requests failed\n{said}")
    found = re.search(r"Requests/sec:\s*([0-9.]+)", said)
    if found is None:
        raise ValueError(f"wrk said no rate\n{said}")
    return float(found.group(1))


def unthrottle(pid: int) -> None:
    """Lift the processor limit of the control groups that process *pid* lies in, as far as they are a cloud's own."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _number, names, path = line.split(":", 2)
        top = Path("/sys/fs/cgroup") / (names or "unified" if Path("/sys/fs/cgroup/unified").is_dir() else names)
        group = top / path.lstrip("/")
        while group != top and "enjin-" in str(group):
            for name, text in (("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")):
                if (group / name).exists():
                    (group / name).write_text(text, encoding="utf-8")
            group = group.parent


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _release(folder: Path) -> str:
    """Build hello below *folder* as a build jail does, and return its web line; the tree is `out/tree`."""
    out = folder / "out"
    out.mkdir()
    with tarfile.open(folder / "source.tar", "w") as archive:
        archive.add(HELLO, ".")
    words = [sys.executable, "-m", "ring2.packaging", "--source", str(folder / "source.tar"), "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    return str(json.loads((out / "build.json").read_text(encoding="utf-8"))["processes"]["web"])


@contextlib.contextmanager
def haproxy_alone() -> Iterator[int]:
    """Run hello by its own line and HAProxy in front of it; yield HAProxy's port."""
    base = free_port_base()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        line = _release(folder)
        (folder / "python").symlink_to("/usr/bin/python3")
        (folder / "haproxy.cfg").write_text(CONFIGURATION.format(front=base + 1, app=base), encoding="utf-8")
        environment = os.environ | {"PORT": str(base), "PATH": f"{folder}:{os.environ['PATH']}"}
        proxy = ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]
        for command in (["sh", "-c", f"exec {line}"], proxy):
            process = stack.enter_context(
                subprocess.Popen(command, cwd=folder / "out/tree", env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
        for port in (base, base + 1):
            wait_for(lambda port=port: _listens(port), 10, f"port {port}")
        yield base + 1


def measure(cloud: Cloud) -> list[Row]:
    """Return router_ratio; the peer's value is 1 by definition."""
    for tool in ("wrk", "haproxy"):
        if shutil.which(tool) is None:
            raise OSError(f"{tool} is not installed")
    host, port = cloud.router
    unthrottle(cloud.find("serve", "app:app")[-1].pid)
    ours, theirs = [], []
    with haproxy_alone() as alone:
        for _ in range(TURNS):
            ours.append(requests_per_s(host, port, f"hello.localhost:{port}"))
            theirs.append(requests_per_s("127.0.0.1", alone, f"hello.localhost:{alone}"))
    through, alone_rate = statistics.median(ours), statistics.median(theirs)
    print(f"  router: {through:.0f}/s through enjin, {alone_rate:.0f}/s through HAProxy alone", file=sys.stderr)
    return rows("router_ratio", through / alone_rate, [Peer("HAProxy alone, app by hand", 1.0)])
