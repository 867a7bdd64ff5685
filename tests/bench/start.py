"""How long the command line takes to say anything: version_ms and help_ms, beside the bare interpreter."""

from __future__ import annotations

import subprocess

from tests.bench.figures import Peer, Row, median_s, rows
from tests.cloud import ENJIN, Cloud

TIMES = 21


def _ms(*words: object) -> float:
    return 1000 * median_s(lambda: subprocess.run([str(word) for word in words], check=True, capture_output=True), TIMES)


def measure(cloud: Cloud) -> list[Row]:
    """Return version_ms and help_ms."""
    python = Peer("python3 -c pass", _ms(ENJIN.parent / "python", "-c", "pass"))
    return rows("version_ms", _ms(ENJIN, "--version"), [python]) + rows("help_ms", _ms(ENJIN, "--help"), [python])
