"""An app that runs whatever it is sent: a tenant's hostile process in a real cloud, driven through the router.

Owns `Puppet`. The code has everything of `tests.attacks.reach.PROBES` at hand and fills the dictionary `found`.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from tests.attacks.reach import PROBES
from tests.cloud import Cloud, Process

APP = '''
def app(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    found = {}
    if length:
        exec(environ["wsgi.input"].read(length).decode(), globals() | {"found": found})
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
'''
PRELUDE = '''
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
def attempt(function):
    try:
        return "got %r" % (function(),)
    except OSError as error:
        return "denied " + errno.errorcode.get(error.errno, str(error))
def ptrace(pid):
    ctypes.set_errno(0)
    return "got" if libc.ptrace(16, pid, 0, 0) == 0 else "denied " + errno.errorcode[ctypes.get_errno()]
'''


class Puppet:
    """One hostile app, pushed and live."""

    def __init__(self, cloud: Cloud, folder: Path, name: str, compartment: str, strategy: str, secret: str) -> None:
        self.cloud, self.name, self.secret = cloud, name, secret
        source = folder / name
        source.mkdir(parents=True)
        (source / "app.py").write_text(PROBES + APP)
        (source / f"{secret}.txt").write_text(secret)
        self.router = cloud.router
        cloud.push(source, name, "--compartment", compartment, "--strategy", strategy)
        cloud.run("config", "set", "--app", name, f"CANARY={secret}")

    def do(self, code: str) -> dict[str, Any]:
        """Run *code* in the app's process and return what it found."""
        connection = http.client.HTTPConnection(*self.router, timeout=100)
        try:
            connection.request("POST", "/", PRELUDE + code, {"Host": f"{self.name}.localhost:{self.router[1]}"})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            found: dict[str, Any] = json.loads(body)
            return found
        finally:
            connection.close()

    def node(self) -> dict[str, Any]:
        """Return what status says of the app's one instance."""
        label = f"{self.name}.web."
        nodes = [node for node in self.cloud.json("status")["nodes"] if node["label"].startswith(label) and node["state"] == "ready"]
        return dict(nodes[-1])

    def process(self) -> Process:
        """Return the app's process as the host sees it."""
        canary = f"CANARY={self.secret}".encode()
        found = [process for process in self.cloud.processes() if canary in _environment(process.pid).split(b"\0")]
        return found[-1]

    def destroy(self) -> None:
        """Remove the app."""
        self.cloud.run("app", "destroy", self.name, "--yes")


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def numbers(pid: int) -> list[int]:
    """Return the numbers of process *pid* in every pid namespace that sees it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [int(word) for word in next(line for line in lines if line.startswith("NSpid:")).split()[1:]]


def uid(pid: int) -> int:
    """Return the uid of a process as the host sees it."""
    return Path(f"/proc/{pid}").stat().st_uid
