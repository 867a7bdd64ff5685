"""A directory in memory, and quiet logs: a simulation writes tens of thousands of lines that nobody reads."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An empty directory on a file system in memory, where there is one: thousands of syncs cost nothing there."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="enjin-sim-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Log nothing below critical while a test of this folder runs."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
