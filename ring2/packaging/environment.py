"""Make the Python environment of an app inside its tree.

Owns ``TREE/.enjin``: the environment, our server modules and the link that makes ``python`` exist. Runs pip; everything pip
runs is the app's own code, which is why all of this happens in a build jail under a uid of its own.

INV-PKG-8: nothing in the tree names the directory it was built in: it runs wherever it is mounted.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import py_compile
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from enjin.errors import StepFailed
from ring2.packaging.command import run
from ring2.packaging.recognise import SERVE, Recognised

PYTHON: Final = "/usr/bin/python3"
WHEELS: Final = "/usr/share/python-wheels"
APP_ROOT: Final = "/app"
ENVIRONMENT: Final = ".enjin/python"
_SCRIPT_BYTES_MAX: Final = 4 << 20
_UNCHECKED: Final = py_compile.PycInvalidationMode.UNCHECKED_HASH
_SHEBANG: Final = re.compile(rb"#!(?:/bin/sh\n'''exec' )?[^\n]*python[0-9.]*[^\n]*\n(?:' '''\n)?")
_PORTABLE_SHEBANG: Final = b"#!/bin/sh\n'''exec' \"${0%/*}/python\" \"$0\" \"$@\"\n' '''\n"


class NoPip(StepFailed):
    """The machine lacks what makes Python environments."""

    code = "E-PKG-030"
    remedy = "install python3-venv"


class DependenciesFailed(StepFailed):
    """The app's requirements could not be installed."""

    code = "E-PKG-031"
    retry = False
    http_status = 422
    remedy = "see the output above; try the same `pip install` on your own machine"


def make_environment(tree: Path, found: Recognised, *, app_root: str = APP_ROOT, deadline_s: float = 600) -> dict[str, str]:
    """Install what *found* asks for and return the environment variables the app's processes need.

    Args:
        tree: The extracted source.
        app_root: Where the tree will be mounted when it runs.
        deadline_s: For everything that pip does together.

    Raises:
        NoPip, DependenciesFailed, CommandTimedOut: See the classes.
    """
    own = tree / ".enjin"
    own.mkdir(mode=0o755)
    (own / "bin").mkdir(mode=0o755)
    path = [f"{app_root}/.enjin/bin"]
    _place_servers(tree, found)
    if found.requirements or found.install_project:
        _install(tree, found, deadline_s)
        _relocate(tree / ENVIRONMENT, str(tree), app_root)
        path.insert(0, f"{app_root}/{ENVIRONMENT}/bin")
    # Debian has no `python`, and a Procfile says `python app.py`.
    (own / "bin" / "python").symlink_to(PYTHON)
    compile_tree(tree, app_root)
    environment = {"PATH": ":".join([*path, "/usr/local/bin", "/usr/bin", "/bin"])}
    if found.language == "python":
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if len(path) > 1:
            environment["VIRTUAL_ENV"] = f"{app_root}/{ENVIRONMENT}"
    return environment


def compile_tree(tree: Path, app_root: str) -> None:
    """Compile every module, so that a start reads bytecode.

    ``unchecked-hash``: a release never changes, and its files' times do, when it is sealed or copied.
    """
    # Sources that do not compile are the app's own affair, and so are those that overwhelm the compiler.
    with contextlib.suppress(RecursionError, MemoryError, ValueError):
        place = str(tree)
        compileall.compile_dir(
            place, 64, quiet=2, force=True, stripdir=place, prependdir=app_root, limit_sl_dest=place, invalidation_mode=_UNCHECKED
        )


def _place_servers(tree: Path, found: Recognised) -> None:
    """Copy our server into the release of an app that uses it: it then never changes with enjin."""
    if not found.serve:
        return
    shutil.copytree(Path(__file__).with_name("serve"), tree / SERVE / "enjin_serve", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / SERVE / "__main__.py").write_text("from enjin_serve.start import main\n\nmain()\n", encoding="utf-8")


def _install(tree: Path, found: Recognised, deadline_s: float) -> None:
    wheels = sorted(Path(WHEELS).glob("pip-*.whl"))
    if not wheels:
        raise NoPip(f"there is no pip in {WHEELS}")
    target = tree / ENVIRONMENT
    made = run([PYTHON, "-I", "-m", "venv", "--without-pip", str(target)], cwd=tree, environment=dict(os.environ), deadline_s=60)
    if made.status:
        raise NoPip("python3 cannot make an environment", tail=made.tail)
    with tempfile.TemporaryDirectory(prefix="enjin-build-") as scratch:
        arguments = list(found.requirements)
        if found.install_project:
            # A copy: building writes build/ and *.egg-info beside the sources, and those do not belong into the release.
            project = Path(scratch, "project")
            shutil.copytree(tree, project, symlinks=True, ignore=lambda where, names: [".enjin"] if Path(where) == tree else [])
            arguments = [str(project)]
        environment = {"HOME": scratch, "TMPDIR": scratch, "PIP_NO_CACHE_DIR": "1", **_machine_settings()}
        command = [str(target / "bin" / "python"), "-I", f"{wheels[-1]}/pip", "install"]
        options = ["--no-input", "--no-compile", "--disable-pip-version-check", "--progress-bar=off", "--no-warn-script-location"]
        done = run([*command, *options, *arguments], cwd=tree, environment=environment, deadline_s=deadline_s)
    if done.status:
        raise DependenciesFailed(f"pip ended with status {done.status}{_reason(done.tail)}", tail=done.tail)


def _machine_settings() -> dict[str, str]:
    """Return what the machine says about reaching packages, and a search path; nothing else of our environment."""
    prefixes = ("PIP_", "SSL_CERT_", "REQUESTS_CA_", "CURL_CA_", "LANG", "LC_")
    names = {"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"}
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith(prefixes)}
    home = Path(os.environ.get("HOME", "/nonexistent"))
    for file in (home / ".config/pip/pip.conf", home / ".pip/pip.conf"):
        if "PIP_CONFIG_FILE" not in kept and os.access(file, os.R_OK):
            kept["PIP_CONFIG_FILE"] = str(file)
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept}


def _reason(tail: list[str]) -> str:
    errors = [line for line in tail if line.startswith("ERROR: ")]
    return f": {errors[0].removeprefix('ERROR: ')[:200]}" if errors else ""


def _relocate(environment: Path, built_in: str, app_root: str) -> None:
    """Make the scripts find their interpreter beside themselves, and let nothing else name where it was built.

    A shebang must be absolute and at most 127 bytes; ``/bin/sh`` with a line that is a string to Python is neither bound.
    """
    for script in (environment / "bin").iterdir():
        if script.is_symlink() or not script.is_file() or script.stat().st_size > _SCRIPT_BYTES_MAX:
            continue
        data = script.read_bytes()
        match = _SHEBANG.match(data)
        if match and built_in.encode() in match[0]:
            data = _PORTABLE_SHEBANG + data[match.end() :]
        _write_if_changed(script, data.replace(built_in.encode(), app_root.encode()))
    texts = [environment / "pyvenv.cfg"]
    for packages in environment.glob("lib/python3*/site-packages"):
        texts += [*packages.glob("*.pth"), *packages.glob("__editable__*.py"), *packages.glob("*.dist-info/direct_url.json")]
    for text in texts:
        if text.is_file() and not text.is_symlink() and text.stat().st_size <= _SCRIPT_BYTES_MAX:
            _write_if_changed(text, text.read_bytes().replace(built_in.encode(), app_root.encode()))


def _write_if_changed(path: Path, data: bytes) -> None:
    if path.read_bytes() != data:
        path.write_bytes(data)
