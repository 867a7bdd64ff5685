"""What tests of hands share: one runtime copy per run, a hands per test, and one ring 1 jail per module that wants it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import temporary_home
from tests.supervision.rig import Rig, make_runtime, rig


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """A runtime copy that every uid can read."""
    with temporary_home() as folder:
        yield make_runtime(folder)


@pytest.fixture(scope="module")
def hands(runtime: Path) -> Iterator[Rig]:
    """A hands of the host, with a fabric where it is root; one per module."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with rig(runtime) as one:
        one.fabric()
        yield one
