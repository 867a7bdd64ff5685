"""The whole build as its jail runs it: `python -m ring2.packaging`, with real pip and without a network."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from enjin.errors import CODES
from enjin.host import process_start_time
from ring2.packaging import environment
from ring2.packaging.__main__ import main
from ring2.packaging.command import CommandTimedOut, run

WSGI = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'x']\n"


def build(tmp_path: Path, files: dict[str, str], *options: str) -> tuple[int, dict[str, Any]]:
    """Run the build in this process and return its status and its report."""
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    status = main(["--source", str(archive), "--out", str(out), *options])
    report = json.loads((out / ("error.json" if status else "build.json")).read_text())
    assert (out / "tree").exists() == (status == 0)
    assert (out / "build.json").exists() == (status == 0)
    return status, report


def wheel(folder: Path, name: str, **scripts: str) -> None:
    """Write a real wheel with one module and its console scripts."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "import sys\ndef main():\n    print('ran', sys.prefix)\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\n" + "".join(f"{key} = {value}\n" for key, value in scripts.items()))
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages come from a folder only, by pip's own settings."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_without_requirements_no_environment_is_made(tmp_path: Path) -> None:
    """The first push is fast: no environment, `python` exists, everything is compiled, and the server lies in the release."""
    status, report = build(tmp_path, {"app.py": WSGI})
    tree = tmp_path / "out/tree"
    assert (status, report["language"], report["root"]) == (0, "python", "/app")
    assert report["environment"]["PATH"] == "/app/.enjin/bin:/usr/local/bin:/usr/bin:/bin"
    assert not (tree / ".enjin/python").exists()
    assert os.readlink(tree / ".enjin/bin/python") == "/usr/bin/python3"
    assert list((tree / "__pycache__").glob("app.*.pyc"))
    assert (tree / ".enjin/serve/enjin_serve/wsgi.py").is_file()


def test_environment_runs_wherever_it_is_mounted(tmp_path: Path, offline: Path) -> None:
    """A console script of a requirement works after the tree has moved, and nothing names the place it was built in."""
    wheel(offline, "tool", tool="tool:main")
    status, report = build(tmp_path, {"app.py": WSGI, "requirements.txt": "tool\n"})
    assert status == 0
    assert report["environment"]["PATH"].startswith("/app/.enjin/python/bin:/app/.enjin/bin:")
    moved = tmp_path / "elsewhere with space"
    (tmp_path / "out/tree").rename(moved)
    script = moved / ".enjin/python/bin/tool"
    done = subprocess.run([str(script)], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == f"ran {moved}/.enjin/python"
    built_in = str(tmp_path / "out/tree").encode()
    files = [path for path in moved.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [str(path) for path in files if built_in in path.read_bytes()] == []


def test_failing_requirement_is_one_line_and_the_tail(tmp_path: Path, offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """pip's failure is shown as it came, its end is in error.json, its reason in one line on standard error."""
    status, report = build(tmp_path, {"app.py": WSGI, "requirements.txt": "no-such-thing==9\n"})
    shown = capfd.readouterr()
    assert (status, report["code"]) == (1, "E-PKG-031")
    assert "no-such-thing" in report["message"]
    assert any("no-such-thing" in line for line in report["tail"])
    assert "no-such-thing" in shown.out
    assert [line.split()[0] for line in shown.err.splitlines()] == ["E-PKG-031"]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"notes.txt": "x"}, "E-PKG-021"),
        ({"Procfile": "web python\n"}, "E-PKG-020"),
        ({"../x": "x"}, "E-PKG-004"),
        ({"pyproject.toml": "[["}, "E-PKG-024"),
        ({"a/app.py": WSGI, "a/__init__.py": WSGI, "b/__init__.py": WSGI}, "E-PKG-022"),
    ],
)
def test_refusals_have_codes(tmp_path: Path, files: dict[str, str], code: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What cannot be built is one line with a stable code and a hint, and leaves no tree."""
    status, report = build(tmp_path, files)
    assert (status, report["code"]) == (1, code)
    assert report["hint"] or CODES[code].remedy == ""
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_wrong_digest_is_refused(tmp_path: Path) -> None:
    """An archive that was swapped is not unpacked."""
    assert build(tmp_path, {"app.py": WSGI}, "--digest", "0" * 64)[1]["code"] == "E-PKG-013"


def test_project_with_build_system_is_installed_from_a_copy(tmp_path: Path, offline: Path) -> None:
    """A package with a build system of its own is installed, and building it writes nothing into the release."""
    backend = (
        "import zipfile\n"
        "def get_requires_for_build_wheel(config_settings=None): return []\n"
        "def build_wheel(directory, config_settings=None, metadata_directory=None):\n"
        "    open('droppings', 'w').close()\n"
        "    i = 'mine-1.0.dist-info/'\n"
        "    with zipfile.ZipFile(directory + '/mine-1.0-py3-none-any.whl', 'w') as w:\n"
        "        w.writestr('mine.py', 'x = 1\\n')\n"
        "        w.writestr(i + 'METADATA', 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n')\n"
        "        w.writestr(i + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        w.writestr(i + 'RECORD', '')\n"
        "    return 'mine-1.0-py3-none-any.whl'\n"
    )
    project = "[project]\nname='mine'\nversion='1.0'\n[build-system]\nrequires=[]\nbuild-backend='backend'\nbackend-path=['.']\n"
    status, _ = build(tmp_path, {"app.py": WSGI, "backend.py": backend, "pyproject.toml": project})
    tree = tmp_path / "out/tree"
    assert status == 0
    assert not (tree / "droppings").exists()
    assert list(tree.glob(".enjin/python/lib/python3*/site-packages/mine.py"))


def test_pip_is_bounded_in_time(tmp_path: Path, offline: Path) -> None:
    """A build script that hangs is ended with everything it started, and the build says so."""
    backend = "import time\ndef get_requires_for_build_wheel(config_settings=None):\n    print('hanging')\n    time.sleep(1000)\n"
    project = "[project]\nname='mine'\nversion='1'\n[build-system]\nrequires=[]\nbuild-backend='backend'\nbackend-path=['.']\n"
    status, report = build(tmp_path, {"backend.py": backend, "pyproject.toml": project, "Procfile": "web: x"}, "--deadline", "2")
    assert (status, report["code"]) == (1, "E-PKG-032")


def test_hanging_tool_is_killed_with_its_children(tmp_path: Path) -> None:
    """The deadline ends the whole session of a tool, not only its first process."""
    script = "import subprocess, sys, time\np = subprocess.Popen(['sleep', '1000'])\nprint(p.pid, flush=True)\ntime.sleep(1000)"
    with pytest.raises(CommandTimedOut) as caught:
        run([sys.executable, "-c", script], cwd=tmp_path, environment={}, deadline_s=0.5)
    grandchild = int(caught.value.details["tail"][0])
    until = time.monotonic() + 5
    while process_start_time(grandchild) is not None:
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.01)


def test_missing_pip_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Debian's pip wheel the build names the package to install."""
    monkeypatch.setattr(environment, "WHEELS", str(tmp_path))
    report = build(tmp_path, {"app.py": WSGI, "requirements.txt": "x\n"})[1]
    assert (report["code"], report["hint"]) == ("E-PKG-030", "install python3-venv")


def test_hostile_sources_do_not_stop_the_compiler(tmp_path: Path) -> None:
    """Files that do not compile, or overwhelm the compiler, are the app's affair: the build goes on."""
    deep = "x = " + "-" * 100_000 + "1\n"
    status, _ = build(tmp_path, {"app.py": WSGI, "bad.py": "def (:\n", "deep.py": deep, "nul.py": "a\0b"})
    assert status == 0
    assert list((tmp_path / "out/tree/__pycache__").glob("app.*.pyc"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_build_needs_no_privileges(tmp_path: Path) -> None:
    """The same build as nobody, as its jail runs it, in a directory of its own."""
    readable = subprocess.run([sys.executable, "-c", ""], user=65534, group=65534, check=False, cwd="/").returncode == 0
    root = Path(__file__).resolve().parents[3]
    if not readable or not os.stat(root).st_mode & 0o005 or any(not os.stat(parent).st_mode & 0o001 for parent in root.parents):
        pytest.skip("the checkout is not readable by other users")
    with tempfile.TemporaryDirectory(prefix="enj-build-", dir="/tmp") as name:
        out = Path(name)
        archive = out / "source.tar"
        with tarfile.open(archive, "w") as tar:
            info = tarfile.TarInfo("app.py")
            info.size = len(WSGI)
            tar.addfile(info, io.BytesIO(WSGI.encode()))
        os.chown(out, 65534, 65534)
        command = [sys.executable, "-m", "ring2.packaging", "--source", str(archive), "--out", str(out)]
        done = subprocess.run(command, cwd=root, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (out / "tree/app.py").stat().st_uid == 65534
