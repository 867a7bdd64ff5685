"""Apps through the real doors: pushed, scaled, configured, rolled back; and what is refused, with the old release still live."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bus.http.blobs import PutBlob
from bus.session import Session
from enjin.canonical import to_text
from ring1.apps import Push
from tests.attacks.test_archive import archive, file, link, thing
from tests.cloud import ENJIN, ROOT
from tests.e2e.clouds import BACK_S, Raised, wait_for, write_app

pytestmark = [pytest.mark.root, pytest.mark.timeout(240), pytest.mark.usefixtures("apps_end")]
CANARY = "canary-5f0e9b1c-value"
WORKER = "import time\nprint('worker works', flush=True)\ntime.sleep(3600)\n"
WEB = """
import os
def app(environ, start_response):
    body = repr(sorted(os.environ.items())).encode() if environ["PATH_INFO"] == "/env" else b"version VERSION"
    print("asked for", environ["PATH_INFO"], flush=True)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
PROCFILE = "web: python serve.py\nworker: python worker.py\n"
SERVE = """
import os
from wsgiref.simple_server import make_server
from app import app
make_server("0.0.0.0", int(os.environ["PORT"]), app).serve_forever()
"""
UNREACHABLE = ("Could not find a version", "No matching distribution", "NewConnectionError", "Temporary failure in name", "Max retries")


def two(folder: Path, version: str) -> Path:
    """Write an app with a Procfile, a web process and a worker."""
    return write_app(folder, Procfile=PROCFILE, serve__py=SERVE, worker__py=WORKER, app__py=WEB.replace("VERSION", version))


@pytest.fixture
def app(cloud: Raised, source: Path) -> str:
    """The app two, live with at least one release."""
    if not any(one["name"] == "two" and one["state"] == "live" for one in cloud.json("app", "list")):
        cloud.push(two(source, "1"), "two")
    return "two"


def one_line(done: subprocess.CompletedProcess[str], code: str) -> str:
    """Check that a command failed with one line and *code*, and return the line."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("enjin: ")]
    assert done.returncode not in (0, 255), done.stdout + done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].endswith(f"[{code}]"), lines[0]
    assert "Traceback" not in done.stderr
    return lines[0]


def body(cloud: Raised, name: str, path: str = "/") -> str:
    """Return what an app answers."""
    return cloud.get(name, path, cloud.place).body.decode()


def test_static(cloud: Raised) -> None:
    """Files are served as they are."""
    told = cloud.push(ROOT / "examples/static", "pages")
    assert told["url"] == f"http://pages.localhost:{cloud.place[1]}/"
    assert {"app", "release", "url", "seconds"} <= told.keys()
    assert "It is served" in body(cloud, "pages")
    cloud.run("app", "destroy", "pages", "--yes")
    wait_for(lambda: not cloud.answers("pages", cloud.place), BACK_S, "the end of the app")


def test_web_and_worker(cloud: Raised, app: str) -> None:
    """A Procfile's processes; a worker is started by scaling, and its output is in the logs."""
    cloud.run("ps", "scale", "web=2", "worker=1", "--app", app)
    wanted = ["web.1", "web.2", "worker.1"]

    def names() -> list[str]:
        return sorted(f"{one['process']}.{one['index']}" for one in cloud.instances(app) if one["state"] == "ready")

    wait_for(lambda: names() == wanted, BACK_S, "two of web and a worker")
    assert len({one["address"] for one in cloud.instances(app)}) == 3
    wait_for(lambda: "worker works" in cloud.run("logs", "--app", app).stdout, BACK_S, "the worker's output")
    cloud.run("ps", "scale", "web=1", "worker=0", "--app", app)
    wait_for(lambda: names() == ["web.1"], BACK_S, "one of web")


def test_settings_are_sealed(cloud: Raised, app: str, tmp_path: Path) -> None:
    """A value reaches the app's environment and nothing else: no journal, command line, daemon's log or other process."""
    answers = cloud.json("releases", "--app", app)
    asked = subprocess.run(
        [ENJIN, "config", "set", f"CANARY={CANARY}", "--app", app],
        env=cloud.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert CANARY not in asked.stdout + asked.stderr
    assert CANARY in body(cloud, app, "/env")
    wait_for(lambda: len(cloud.instances(app)) == 1, BACK_S, "the old instance to end")
    places = [cloud.copy_journal(ring, tmp_path / f"ring{ring}") for ring in (0, 1)]
    places += [path for path in cloud.home.rglob("*") if path.is_file() and path.suffix in (".db", ".json", ".log", ".db-wal")]
    assert [str(path) for path in places if CANARY.encode() in path.read_bytes()] == []
    assert [one.line for one in cloud.processes() if CANARY in one.line] == []
    assert CANARY not in cloud.written(0) + cloud.written(1)
    found = cloud.json("config", "get", "--app", app)
    assert [one["key"] for one in found["values"]] == ["CANARY"]
    assert CANARY not in str(found)
    holders = [one for one in cloud.processes() if CANARY.encode() in environment(one.pid)]
    assert holders
    assert all("serve.py" in one.line for one in holders), [one.line for one in holders]
    log = cloud.run("audit", "log", "--json", check=False)
    assert CANARY not in log.stdout + log.stderr
    cloud.run("config", "unset", "CANARY", "--app", app)
    assert CANARY not in body(cloud, app, "/env")
    assert cloud.json("releases", "--app", app)[0]["release"] > answers[0]["release"]


def environment(pid: int) -> bytes:
    """Return the environment that a process was started with."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_rollback_and_restart(cloud: Raised, app: str, source: Path) -> None:
    """The second release, back to what was before, and a restart that replaces every instance."""
    before = body(cloud, app)
    cloud.push(two(source, "2"), app)
    assert body(cloud, app) == "version 2"
    cloud.run("rollback", "--app", app)
    assert body(cloud, app) == before
    wait_for(lambda: len(cloud.instances(app)) == 1, BACK_S, "the old instances to end")
    instance = cloud.instances(app)[0]["id"]
    cloud.run("restart", "--app", app)
    wait_for(lambda: [one["id"] for one in cloud.instances(app)] not in ([instance], []), BACK_S, "another instance")
    assert body(cloud, app) == before


def test_logs_are_followed(cloud: Raised, app: str) -> None:
    """`logs -f` prints a line that is written after it began."""
    with subprocess.Popen(
        [ENJIN, "logs", app, "-f"], env=cloud.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as following:
        try:
            assert following.stdout is not None
            body(cloud, app, "/mark-7d1")
            for line in following.stdout:
                if "/mark-7d1" in line:
                    break
            else:
                pytest.fail("logs -f ended")
        finally:
            following.kill()


def test_strategy_user(cloud: Raised, source: Path) -> None:
    """A locked-down UNIX user instead of a jail; live all the same."""
    cloud.push(two(source, "user"), "plain", "--strategy", "user")
    assert body(cloud, "plain") == "version user"
    assert [one["strategy"] for one in cloud.json("app", "list") if one["name"] == "plain"] == ["user"]
    cloud.run("app", "destroy", "plain", "--yes")


BAD_SOURCES: dict[str, tuple[dict[str, str], str, str]] = {
    "a Procfile that does not parse": ({"Procfile": "this is no line\n"}, "E-PKG-020", "Procfile"),
    "no recognised language": ({"notes__xyz": "nothing"}, "E-PKG-021", ""),
    "a build that fails": ({"requirements__txt": "./absent-package-5f0e\n", "app__py": WEB}, "E-PKG-031", "absent-package-5f0e"),
    "a process that crashes": ({"Procfile": "web: sh -c 'echo boom-5f0e; exit 3'\n"}, "E-APP-012", "boom-5f0e"),
}


@pytest.mark.parametrize("what", BAD_SOURCES)
def test_a_bad_release_leaves_the_old_one_live(cloud: Raised, app: str, source: Path, what: str) -> None:
    """One line with a code, the output above it, and the release that was live goes on serving."""
    files, code, shown = BAD_SOURCES[what]
    before, live = body(cloud, app), next(one["release"] for one in cloud.json("app", "list") if one["name"] == app)
    done = cloud.run("push", str(write_app(source, **files)), "--app", app, check=False)
    one_line(done, code)
    assert shown in done.stderr
    assert body(cloud, app) == before
    assert next(one["release"] for one in cloud.json("app", "list") if one["name"] == app) == live


def test_an_app_that_never_answers(cloud: Raised, app: str, source: Path) -> None:
    """It runs and does not listen: given up when the time to be ready is over, and the old release goes on."""
    before = body(cloud, app)
    done = cloud.run("push", str(write_app(source, Procfile="web: sleep 600\n")), "--app", app, check=False)
    one_line(done, "E-APP-011")
    assert body(cloud, app) == before
    wait_for(lambda: len(cloud.instances(app)) == 1, BACK_S, "the end of what never answered")


def test_a_bad_name(cloud: Raised, source: Path) -> None:
    """Outside of the pattern: refused before anything is sent."""
    before = cloud.head(1)
    for name in ("Upper", "a", "-a", "a_b", "a" * 33, "a.b", "../a", ""):
        one_line(cloud.run("push", str(two(source, "1")), "--app", name, check=False), "E-NAM-001")
    assert cloud.head(1) == before


ATTACKS: dict[str, tuple[list[Any], str]] = {
    "absolute": ([file("/etc/enjin-owned")], "E-PKG-004"),
    "climbs": ([file("../../enjin-owned")], "E-PKG-004"),
    "link out": ([link("out", "/etc/passwd")], "E-PKG-006"),
    "write through a link": ([link("a", "b"), file("a/x")], "E-PKG-007"),
    "device": ([thing("null", tarfile.CHRTYPE)], "E-PKG-"),
}


def put(cloud: Raised, data: bytes) -> str:
    """Put bytes at ring 1's API as the command line does, and return their digest."""
    import asyncio

    digest = hashlib.sha256(data).hexdigest()

    async def seal() -> bytes:
        async with await Session.open(cloud.config) as session:
            decider = session.directory.reach(1).decider
            return session.caller(1).speaker.seal(f"command.{PutBlob.KIND}", PutBlob(digest=digest), audience=decider)

    connection = http.client.HTTPConnection("127.0.0.1", cloud.port_base + 1, timeout=30)
    try:
        headers = {"Authorization": f"Enjin {to_text(asyncio.run(seal()))}", "Content-Length": str(len(data))}
        connection.request("PUT", f"/v1/blobs/{digest}", body=io.BytesIO(data), headers=headers)
        answer = connection.getresponse()
        assert answer.status in (200, 201), answer.read()
    finally:
        connection.close()
    return digest


@pytest.mark.parametrize("what", ATTACKS)
def test_hostile_archives(cloud: Raised, app: str, what: str) -> None:
    """Made by hand and sent through the real API: the build refuses it, and nothing was written anywhere."""
    from ring1.operations import ShowOperation

    members, code = ATTACKS[what]
    before, trees = body(cloud, app), {path.name for path in cloud.home.glob("nodes/*/state/releases/*")}
    asked = cloud.tell(1, Push(app=app, source=put(cloud, archive(file("app.py", WEB.encode()), *members))))

    def ended_as() -> Any:
        now = cloud.ask(1, ShowOperation(request=asked["operation"]))
        return now if now["state"] != "running" else None

    ended = wait_for(ended_as, BACK_S, "the end of the build")
    assert ended["state"] == "failed"
    assert ended["code"].startswith(code), ended
    assert ended["why"].count("\n") <= 1
    assert body(cloud, app) == before
    assert {path.name for path in cloud.home.glob("nodes/*/state/releases/*")} == trees
    assert not Path("/etc/enjin-owned").exists()
    # os.walk, because builds come and go below it meanwhile: what is gone when it looks is passed over.
    assert [folder for folder, _, names in os.walk(cloud.home) if "enjin-owned" in names] == []


def test_a_source_that_nobody_sent(cloud: Raised, app: str) -> None:
    """Refused at the decision: neither head nor projection moves; nor do they for an unknown app or process."""
    from enjin.errors import EnjinError

    before = cloud.head(1)
    for words, code in (
        (("restart", "--app", "absent"), "E-APP-001"),
        (("ps", "scale", "absent=1", "--app", app), "E-APP-008"),
        (("ps", "scale", "web=51", "--app", app), "E-APP-007"),
        (("rollback", "77", "--app", app), "E-REL-001"),
    ):
        one_line(cloud.run(*words, check=False), code)
    with pytest.raises(EnjinError):
        cloud.tell(1, Push(app="Not A Name", source="0" * 64))
    assert cloud.head(1) == before


@pytest.mark.parametrize(("name", "path", "text"), [("flask", "/", "Hello, World!"), ("django", "/polls/", "polls index")])
def test_frameworks_go_live(cloud: Raised, tmp_path: Path, name: str, path: str, text: str) -> None:
    """As their own documentation shows them, their packages fetched by the build over its jail's user-mode network."""
    source = tmp_path / name
    shutil.copytree(ROOT / "tests/frameworks" / name, source)
    done = cloud.run("push", str(source), "--app", name, check=False, seconds=200)
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE) and not _index_answers():
        pytest.skip("this machine cannot reach a package index: " + done.stderr.strip()[-300:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert text in body(cloud, name, path)
    cloud.run("app", "destroy", name, "--yes")


def _index_answers() -> bool:
    """Tell whether the machine itself reaches its package index."""
    words = [str(ROOT / ".venv/bin/python"), "-m", "pip", "download", "--no-deps", "--no-cache-dir", "-q", "-d", os.devnull, "itsdangerous"]
    words[-2] = "/tmp/enjin-index-probe"
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    shutil.rmtree(words[-2], ignore_errors=True)
    return done.returncode == 0
