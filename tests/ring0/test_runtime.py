"""The runtime copy: complete or absent, the same for the same content, and runnable by whoever can see it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from ring0 import runtime
from tests.places import temporary_home

DAEMONS = ("ring0.daemon", "ring1.daemon", "ring2.daemon", "bus.hub.serving", "supervision.hands", "ring2.packaging.build", "pip")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A state folder with a copy in it."""
    with temporary_home() as folder:
        runtime.ensure_runtime(folder)
        yield folder


def test_another_user_can_run_every_daemon(home: Path) -> None:
    """A uid that owns nothing imports every daemon from the copy alone: not from the checkout, not from our environment."""
    identity = {"user": 1_800_000_000, "group": 1_800_000_000, "extra_groups": []} if os.geteuid() == 0 else {}
    code = f"import {', '.join(DAEMONS)}, sys; print(*(sys.modules[name].__file__ for name in {DAEMONS!r}), sep='\\n')"
    done = subprocess.run(  # type: ignore[call-overload]
        [runtime.ensure_runtime(home) / "bin/python", "-I", "-c", code],
        capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL, env={}, **identity,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.split() if not line.startswith(str(home / "runtime"))] == []


def test_it_is_made_once(home: Path) -> None:
    """Asked again, the same copy is there, untouched, and nothing beside it."""
    before = {path: path.stat().st_mtime_ns for path in (home / "runtime").iterdir()}
    assert runtime.ensure_runtime(home) in before
    assert {path: path.stat().st_mtime_ns for path in (home / "runtime").iterdir()} == before
    assert len(before) == 1


def test_nobody_else_can_write_it(home: Path) -> None:
    """Everything in it can be read by all and written by its owner alone."""
    for folder, names, files in os.walk(home / "runtime"):
        for name in (*names, *files):
            path = Path(folder, name)
            if not path.is_symlink():
                assert (path.stat().st_mode & 0o444, path.stat().st_mode & 0o022) == (0o444, 0), path


def test_cut_off_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that breaks off in the middle leaves nothing that a later `enjin up` could take for one."""
    copied: list[object] = []

    def failing(one: Distribution, packages: Path) -> None:
        copied.append(one)
        if len(copied) == 4:
            raise OSError(28, "No space left on device")
        copy(one, packages)

    copy = runtime._copy_distribution
    monkeypatch.setattr(runtime, "_copy_distribution", failing)
    with pytest.raises(OSError, match="No space"):
        runtime.ensure_runtime(tmp_path)
    assert list((tmp_path / "runtime").iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its dependencies there is no copy, and the message says which."""
    monkeypatch.setattr(runtime, "BESIDE", ("surely-not-installed",))
    with pytest.raises(runtime.NoDistribution, match="surely-not-installed"):
        runtime.ensure_runtime(tmp_path)
    assert not (tmp_path / "runtime").exists()
