"""`./bootstrap` itself: POSIX sh, quick when there is nothing to do, and one clear line for each thing that is missing.

What needs a changed machine (a missing package, another /usr/local/bin) gets it in a mount namespace of the test's own, so the real
dpkg-query and the real pip answer and the machine keeps what it has. The raising of a cloud is tested in tests/e2e.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import temporary_home

ROOT = Path(__file__).resolve().parent.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace")
PARTS = (
    "bootstrap",
    ".ci",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements",
    "enjin",
    "keys",
    "bus",
    "compartments",
    "supervision",
    "ring0",
    "ring1",
    "ring2",
)


def in_own_mounts(script: str, *words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run *words* after *script* (sh) has changed the mounts of a namespace that nobody else sees."""
    command = ["unshare", "--mount", "sh", "-euc", f'{script}\nexec "$@"', "sh", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=110)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of this checkout, without .venv, that an unprivileged user may read."""
    with temporary_home() as folder:
        copy = folder / "checkout"
        copy.mkdir()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, copy / part)
        yield copy


def setup(checkout: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run `./bootstrap setup` of *checkout* with a /usr/local/bin of its own."""
    return in_own_mounts("mount -t tmpfs none /usr/local/bin", *before, checkout / "bootstrap", "setup", cwd=checkout)


@pytest.mark.parametrize("script", ["bootstrap", ".ci/run"])
def test_scripts_are_posix_sh(script: str) -> None:
    """The scripts parse in dash and hold nothing that only bash knows."""
    path = ROOT / script
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    assert os.access(path, os.X_OK)
    for shell in ("dash", "bash"):
        done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(r"\[\[|^\s*(local|function|declare)\s|<\(|\$'", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_unknown_command_is_a_usage_error() -> None:
    """An unknown command names itself, has a code, shows the usage and ends with status 2."""
    done = subprocess.run([ROOT / "bootstrap", "frobnicate"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("bootstrap: E-BST-008: no such command: frobnicate\n")
    assert "./bootstrap test" in done.stderr


def test_help_lists_the_commands() -> None:
    """`./bootstrap --help` prints the head of the script on standard output."""
    done = subprocess.run([ROOT / "bootstrap", "--help"], capture_output=True, text=True, check=True)
    for word in ("setup", "test", "lint", "bench"):
        assert f"./bootstrap {word}" in done.stdout
    assert "#!" not in done.stdout
    assert "set -eu" not in done.stdout


@needs_root
def test_missing_packages_are_named_to_an_unprivileged_user(checkout: Path) -> None:
    """Without root and with packages missing: exactly these, the command to type, a code, status 1, and nothing changed."""
    edit = (
        "sed '/^Package: haproxy$/,/^$/s/^Status: .*/Status: deinstall ok config-files/' /var/lib/dpkg/status >\"$0.status\"\n"
        'mount --bind "$0.status" /var/lib/dpkg/status'
    )
    status = checkout.parent / "dpkg"
    done = in_own_mounts(edit.replace('"$0.status"', f"'{status}'"), *UNPRIVILEGED, checkout / "bootstrap", cwd=checkout)
    assert done.returncode == 1
    assert "bootstrap: E-BST-002: Debian packages are missing: haproxy\n" in done.stderr
    assert "as root: apt-get install --no-install-recommends haproxy\n" in done.stderr
    assert not (checkout / ".venv").exists()


UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/nonexistent")


@needs_root
@pytest.mark.slow
def test_setup_makes_the_environment_once(checkout: Path) -> None:
    """The first run installs with hashes; the second finds nothing to do within two seconds; both link the command."""
    first = setup(checkout)
    assert first.returncode == 0, first.stderr
    assert "linked /usr/local/bin/enjin" in first.stderr
    assert (checkout / ".venv/bin/enjin").exists()
    began = time.monotonic()
    second = setup(checkout)
    assert second.returncode == 0, second.stderr
    assert time.monotonic() - began < 2
    assert "is up to date" in second.stderr
    ask = [checkout / ".venv/bin/python", "-c", "import sys; print(sys.base_prefix)"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "/usr\n"


@needs_root
@pytest.mark.slow
def test_a_wrong_hash_is_refused(checkout: Path) -> None:
    """A package whose archive has another hash than its pin is not installed, and the stamp is not written."""
    if not (checkout / ".venv").exists():
        assert setup(checkout).returncode == 0
    pins = checkout / "requirements/run.txt"
    kept = pins.read_text(encoding="utf-8")
    head, _, rest = kept.partition("pathspec==")
    pins.write_text(head + "pathspec==" + re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, rest, count=2), encoding="utf-8")
    subprocess.run([checkout / ".venv/bin/python", "-m", "pip", "uninstall", "-q", "-y", "pathspec"], check=True, capture_output=True)
    try:
        done = setup(checkout)
        assert done.returncode == 1
        assert "E-BST-004" in done.stderr
        assert "DO NOT MATCH THE HASHES" in done.stderr
        again = setup(checkout)
        assert again.returncode == 1
    finally:
        pins.write_text(kept, encoding="utf-8")
    mended = setup(checkout)
    assert mended.returncode == 0, mended.stderr


@needs_root
def test_a_foreign_command_is_left_alone(checkout: Path) -> None:
    """A /usr/local/bin/enjin that is not this checkout's stays as it is, and that is said."""
    if not (checkout / ".venv").exists():
        assert setup(checkout).returncode == 0
    script = "mount -t tmpfs none /usr/local/bin; echo other >/usr/local/bin/enjin"
    done = in_own_mounts(script, checkout / "bootstrap", "setup", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert "left /usr/local/bin/enjin as it is" in done.stderr


def test_no_policy_is_left() -> None:
    """The temporary rule against starting services is gone (or is somebody else's)."""
    policy = Path("/usr/sbin/policy-rc.d")
    assert not policy.exists() or "made by enjin" not in policy.read_text(encoding="utf-8", errors="replace")
