"""The unit template: systemd understands every line of it, and it gives away no more than it must."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parent.parent / "systemd/enjin.service"
# systemd-analyze's exposure times ten. Root that makes namespaces, mounts and networks cannot come near the 1 of a plain daemon; a unit
# without any directive has 96. It may only go down.
EXPOSURE_MAX = 70
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The template filled in as `enjin up` does."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in (("HOME", tmp_path), ("PYTHON", "/usr/bin/python3"), ("PROGRAM", tmp_path / "init.py")):
        text = text.replace(f"@{name}@", str(value))
    path = tmp_path / "enjin-0a1b2c.service"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_place_is_filled_in(unit: Path) -> None:
    """The template has no other places than the three that are filled in."""
    assert not re.search(r"^[^#]*@\w+@", unit.read_text(encoding="utf-8"), re.MULTILINE)


@needs_systemd
def test_systemd_understands_the_unit(unit: Path) -> None:
    """`systemd-analyze verify` says nothing at all: it ends with 0 even for a key that it does not know."""
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_verify_would_tell(unit: Path) -> None:
    """The check above bites: a misspelt key makes it speak."""
    unit.write_text(unit.read_text(encoding="utf-8").replace("KillMode=", "KillMood="), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "KillMood" in done.stderr


@needs_systemd
def test_exposure_stays_low(unit: Path) -> None:
    """`systemd-analyze security` finds no more exposure than is written down above."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", unit], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_the_end_of_the_unit_is_not_the_end_of_the_jails(unit: Path) -> None:
    """systemd restarts init alone: it kills no other process of the unit and gives it no mounts of its own."""
    lines = {line for line in unit.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")}
    assert {"KillMode=process", "Restart=always", "RestartPreventExitStatus=0", "Delegate=yes"} <= lines
    own_mounts = ("Protect", "Private", "ReadOnlyP", "ReadWriteP", "InaccessibleP", "TemporaryFileS", "Bind", "Root")
    assert [line for line in lines if line.startswith(own_mounts)] == []
