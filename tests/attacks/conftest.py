"""One real cloud for the attacks that need the whole product, raised once per run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import cloud as clouds
from tests.attacks.voices import Voices
from tests.cloud import ROOT, Cloud


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """A cloud in jails with `hello` live; skipped with its reason where the test is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with clouds.cloud("--ring1", "jail") as made:
        made.push(ROOT / "examples" / "hello", "hello")
        yield made


@pytest.fixture(scope="session")
def voices(cloud: Cloud) -> Iterator[Voices]:
    """Everybody who could speak in that cloud."""
    with Voices(cloud) as made:
        yield made
