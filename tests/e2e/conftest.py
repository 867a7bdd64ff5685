"""The clouds that end-to-end tests share: one for the whole run, and a fresh one for a test that breaks it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud import ROOT
from tests.e2e.clouds import BACK_S, Raised, raised, wait_for
from tests.places import free_port_base, temporary_home


@pytest.fixture(scope="session", autouse=True)
def _end_in_order() -> Iterator[None]:
    """Told to end by a signal, the run still takes its clouds down."""
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: pytest.exit("told to end", returncode=143))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def cloud() -> Iterator[Raised]:
    """A cloud as root makes it, with a state directory, ports and keys of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with temporary_home() as folder, raised(folder, free_port_base()) as made:
        yield made


@pytest.fixture
def fresh_cloud() -> Iterator[Raised]:
    """A cloud for one test alone."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with temporary_home() as folder, raised(folder, free_port_base()) as made:
        yield made


@pytest.fixture(scope="module")
def apps_end(cloud: Raised) -> Iterator[None]:
    """Leave the shared cloud as the next module expects it: with hello or without, and no other app."""
    yield
    for one in cloud.json("app", "list"):
        if one["name"] != "hello":
            cloud.run("app", "destroy", one["name"], "--yes")
    wait_for(lambda: all(one["app"] == "hello" for one in cloud.json("ps")), BACK_S, "the end of the other apps")


@pytest.fixture
def hello(cloud: Raised) -> Raised:
    """The shared cloud, with examples/hello live in it as the app hello."""
    if not any(app["name"] == "hello" and app["state"] == "live" for app in cloud.json("app", "list")):
        cloud.push(ROOT / "examples/hello", "hello")
    return cloud


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A folder for an app's source."""
    folder = tmp_path / "source"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
