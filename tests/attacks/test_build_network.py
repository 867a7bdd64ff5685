"""What code that runs while an app is built, and code of the app itself, can reach from a real cloud: nothing of ours.

The build runs an app's own build backend; what it found out it leaves in the package that it builds, and the app serves it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.reach import PROBES, Outside, answers, waiting
from tests.cloud import Cloud

BACKEND = '''
import glob, os, subprocess, sys, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    targets, abstract = json.load(open("targets.json"))
    report = {
        "reached": reach_all(targets), "sockets": sockets_found(abstract), "others": others(), "status": status(), "own": own_server(),
        "environment": sorted(os.environ), "python": sys.executable,
        "resolver": open("/etc/resolv.conf").read() if os.path.exists("/etc/resolv.conf") else "",
    }
    program = glob.glob("/usr/share/python-wheels/pip-*.whl")[0] + "/pip"
    command = [sys.executable, "-I", program, "download", "--no-deps", "-q", "-d", "/tmp/index", "six"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report["index"] = [done.returncode, (done.stdout + done.stderr)[-600:]]
    name = "report-1.0-py3-none-any.whl"
    files = {
        "report_of_build.json": json.dumps(report),
        "report-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: report\\nVersion: 1.0\\n",
        "report-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: attack\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files["report-1.0.dist-info/RECORD"] = "".join(f"{path},,\\n" for path in [*files, "report-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return name
'''
APP = '''
import glob

BUILD = json.load(open(glob.glob("/app/.enjin/**/report_of_build.json", recursive=True)[0]))
TARGETS, ABSTRACT = json.load(open("targets.json"))

def app(environ, start_response):
    if environ["PATH_INFO"] == "/build":
        found = BUILD
    elif environ["PATH_INFO"] == "/app":
        found = {"reached": reach_all(TARGETS), "sockets": sockets_found(ABSTRACT), "others": others()}
        found |= {"status": status(), "own": own_server()}
    else:
        found = {}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
'''


@pytest.fixture(scope="module")
def outside(cloud: Cloud) -> Iterator[Outside]:
    """Listeners on the host and in ring 1, for as long as the attacks last."""
    daemon = next(process for process in cloud.find("ring1.daemon"))
    with waiting(daemon.pid) as found:
        assert answers("127.0.0.1", found.host_port)
        yield found


@pytest.fixture(scope="module")
def attacker(cloud: Cloud, outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An app whose build and whose process attack; `victim` is beside it, of another tenant."""
    folder = tmp_path_factory.mktemp("attacker")
    victims = [node["address"] for node in cloud.json("status")["nodes"] if node["ring"] == 2]
    targets = [*outside.targets, *((address, port) for address in victims for port in (5000, 8000, 8080, 80))]
    told = json.dumps([targets, outside.abstract])
    evil = folder / "evil"
    evil.mkdir()
    (evil / "pyproject.toml").write_text(
        '[project]\nname = "report"\nversion = "1.0"\n[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (evil / "backend.py").write_text(PROBES + BACKEND)
    for place in (folder, evil):
        (place / "targets.json").write_text(told)
    (folder / "requirements.txt").write_text("./evil\n")
    (folder / "app.py").write_text(PROBES + APP)
    cloud.push(folder, "attacker")
    yield "attacker"
    cloud.run("app", "destroy", "attacker", "--yes")


@pytest.fixture(scope="module")
def build(cloud: Cloud, attacker: str) -> dict[str, Any]:
    """What the build found out."""
    found: dict[str, Any] = json.loads(cloud.get(attacker, "/build", seconds=60).body)
    return found


@pytest.fixture(scope="module")
def app(cloud: Cloud, attacker: str) -> dict[str, Any]:
    """What the app's process found out."""
    found: dict[str, Any] = json.loads(cloud.get(attacker, "/app", seconds=110).body)
    return found


def test_n55_a_build_reaches_nothing_of_ours(build: dict[str, Any]) -> None:
    """N55: no port of host or ring 1 at any of their addresses, no gateway, no metadata, no instance; its own loopback works."""
    assert build["reached"] == {}
    assert build["own"] == "connected"


def test_n58_a_build_finds_no_socket_of_ours(build: dict[str, Any]) -> None:
    """N58: neither bus, nor an init's control socket, nor an abstract socket of the host is in sight of a build."""
    assert build["sockets"] == {}
    assert build["others"] == []


def test_n50_a_build_has_no_rights(build: dict[str, Any]) -> None:
    """N50: no capability, no new privileges, a system call filter; no key or path of the cloud in its environment."""
    confined(build["status"])
    assert [name for name in build["environment"] if name.startswith("ENJIN")] == []


def test_a_build_reaches_the_package_index(build: dict[str, Any], tmp_path: Path) -> None:
    """The valid twin: with the machine's own settings, a build gets a package from the index that the machine itself reaches."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(tmp_path), "six"]
    here = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL)
    if here.returncode != 0:
        pytest.skip(f"this machine reaches no package index: {here.stderr[-200:]}")
    status, said = build["index"]
    assert (status, "" if status == 0 else said) == (0, "")


def test_n55_an_app_reaches_nothing_but_itself(app: dict[str, Any]) -> None:
    """N55: from an instance no port of host, ring 1 or another instance, no gateway, no metadata is reached; its own loopback is."""
    assert app["reached"] == {}
    assert app["own"] == "connected"


def test_n58_an_app_finds_no_socket_of_ours(app: dict[str, Any]) -> None:
    """N58: neither bus, nor its agent, nor its init's control socket, nor an abstract socket of the host is in sight of an app."""
    assert app["sockets"] == {}
    assert app["others"] == []


def test_n50_an_app_has_no_rights(app: dict[str, Any]) -> None:
    """N50: no capability, no new privileges, a system call filter, as its own /proc tells."""
    confined(app["status"])


def confined(status: dict[str, str]) -> None:
    """Check what /proc/self/status says of a process."""
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
