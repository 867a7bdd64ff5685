"""From source to an answer: push_first_200_s, and app_restart_s after kill -9 of the app beside supervisord doing the same."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.figures import Peer, Row, rows
from tests.cloud import ROOT, Cloud, Process, wait_for
from tests.places import free_port_base

TIMES = 5
HELLO = ROOT / "examples/hello"
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


def push_first_200(cloud: Cloud) -> float:
    """Return the median seconds from `enjin push` of a new app until its first 200."""
    taken = []
    router = cloud.router
    for number in range(TIMES):
        name = f"bench{number}"
        began = time.monotonic()
        cloud.push(HELLO, name)
        wait_for(lambda name=name: cloud.answers(name, router), 30, f"{name}'s first 200")
        taken.append(time.monotonic() - began)
        cloud.run("app", "destroy", name, "--yes")
    return sorted(taken)[len(taken) // 2]


def _app_process(cloud: Cloud, but: int = 0) -> Process | None:
    """Return the process of hello's instance, the server that the build chose for it; None while there is none but *but*."""
    found = [process for process in cloud.find("serve", "app:app") if process.pid != but and "bwrap" not in process.argv[0]]
    return found[-1] if found else None


def app_restart(cloud: Cloud) -> float:
    """Return the median seconds from kill -9 of the app's process until it answers again."""
    router = cloud.router
    taken = []
    for _ in range(TIMES):
        wait_for(lambda: cloud.answers("hello", router), 30, "hello")
        process: Process = wait_for(lambda: _app_process(cloud), 10, "hello's process")
        began = time.monotonic()
        cloud.kill(process)
        wait_for(lambda pid=process.pid: _app_process(cloud, pid), 10, "another process")
        wait_for(lambda: cloud.answers("hello", router), 30, "hello again")
        taken.append(time.monotonic() - began)
    return sorted(taken)[len(taken) // 2]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _supervisord(folder: Path, port: int):  # type: ignore[no-untyped-def]
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    (folder / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nuser=root\nlogfile={folder}/log\npidfile={folder}/pid\nchildlogdir={folder}\n"
        f"[program:app]\ncommand={sys.executable} {folder}/server.py {port}\nautorestart=true\nstartsecs=0\n",
        encoding="utf-8",
    )
    binary = Path(sys.executable).parent / "supervisord"
    with subprocess.Popen([binary, "-c", folder / "supervisord.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def supervisord_restart() -> Peer:
    """Measure the same with supervisord and a plain process, with no isolation."""
    if not (Path(sys.executable).parent / "supervisord").exists():
        return Peer("supervisord", why="not installed; ./bootstrap bench installs it")
    with tempfile.TemporaryDirectory() as name:
        port = free_port_base()
        taken = []
        with _supervisord(Path(name), port) as process:
            for _ in range(TIMES):
                wait_for(lambda: _answers(port), 30, "supervisord's app")
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
                began = time.monotonic()
                os.kill(int(children[0]), signal.SIGKILL)
                wait_for(lambda pid=children[0]: not Path(f"/proc/{pid}/exe").exists(), 10, "its end")
                wait_for(lambda: _answers(port), 30, "supervisord's app again")
                taken.append(time.monotonic() - began)
    return Peer("supervisord", sorted(taken)[len(taken) // 2])


def measure(cloud: Cloud) -> list[Row]:
    """Return both."""
    piku = Peer("piku git push", why="in no package registry")
    return rows("push_first_200_s", push_first_200(cloud), [piku]) + rows("app_restart_s", app_restart(cloud), [supervisord_restart()])
