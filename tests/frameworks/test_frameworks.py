"""Projects as their frameworks' own documentation shows them: built by `python -m ring2.packaging`, served from /app, read-only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ring1.source import pack

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BWRAP = shutil.which("bwrap")
UNREACHABLE = ("Could not find a version", "No matching distribution", "NewConnectionError", "Temporary failure in name", "Max retries")


def build(source: Path, tmp_path: Path) -> dict[str, Any]:
    """Pack and build *source*, and return build.json."""
    archive, out = tmp_path / "source.tar", tmp_path / "out"
    out.mkdir()
    with open(archive, "wb") as file:
        digest = pack(source, file).digest
    command = [sys.executable, "-m", "ring2.packaging", "--source", str(archive), "--out", str(out), "--digest", digest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    if done.returncode and any(sign in done.stdout for sign in UNREACHABLE):
        pytest.skip("the package index cannot be reached: " + done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "build.json").read_text())


def ask(tmp_path: Path, built: dict[str, Any], path: str = "/", host: str = "hello.localhost:8080") -> dict[str, Any]:
    """Serve the web process from a read-only /app, in namespaces of its own, and return its answer."""
    if BWRAP is None:
        pytest.skip("bubblewrap is not installed")
    moved = tmp_path / "sealed"
    if not moved.exists():
        (tmp_path / "out/tree").rename(moved)  # nothing may depend on where it was built
    jail = ["--unshare-net", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session", "--clearenv"]
    binds = [word for name in ("/usr", "/bin", "/lib", "/lib64") if Path(name).exists() for word in ("--ro-bind", name, name)]
    binds += ["--ro-bind", str(moved), "/app", "--ro-bind", str(HERE / "answer_inside.py"), "/answer.py"]
    binds += ["--proc", "/proc", "--dev", "/dev"]
    environment = {**built["environment"], "PORT": "5000", "HOME": "/tmp"}
    variables = [word for name, value in environment.items() for word in ("--setenv", name, value)]
    command = [BWRAP, *jail, *binds, "--tmpfs", "/tmp", "--chdir", "/app", *variables]
    command += ["/usr/bin/python3", "/answer.py", built["processes"]["web"], path, host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, done.stdout + done.stderr
    return {**json.loads(lines[0][7:]), "log": done.stdout + done.stderr}


def test_flask_with_gunicorn(tmp_path: Path) -> None:
    """The quickstart's app with gunicorn in a Procfile answers 200, from bytecode, without writing to its tree."""
    built = build(HERE / "flask", tmp_path)
    assert (built["language"], built["processes"]) == ("python", {"web": "gunicorn -w 4 'app:app'"})
    tree = tmp_path / "out/tree"
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [str(path) for path in files if str(tmp_path).encode() in path.read_bytes()] == []
    answer = ask(tmp_path, built)
    assert (answer["status"], answer["body"]) == (200, "<p>Hello, World!</p>"), answer["log"]


def test_django_project(tmp_path: Path) -> None:
    """What startproject and the tutorial's first part write needs no Procfile: its WSGI application is found, said and served."""
    built = build(HERE / "django", tmp_path)
    assert built["processes"] == {"web": "gunicorn mysite.wsgi:application"}
    assert "guessed" in built["notes"][0]
    answer = ask(tmp_path, built, "/polls/")
    assert (answer["status"], answer["body"]) == (200, "Hello, world. You're at the polls index."), answer["log"]
    assert ask(tmp_path, built, "/", "mysite.localhost")["status"] == 404


@pytest.mark.parametrize(("example", "body"), [("hello", "hello from enjin"), ("static", "It is served.")])
def test_examples(tmp_path: Path, example: str, body: str) -> None:
    """The examples build without a network and answer, and the server ends on SIGTERM by itself."""
    built = build(ROOT / "examples" / example, tmp_path)
    answer = ask(tmp_path, built)
    assert (answer["status"], answer["ended"]) == (200, 0), answer["log"]
    assert body in answer["body"]
