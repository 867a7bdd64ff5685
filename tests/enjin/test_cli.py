"""The command line: one clear line for every failure, and help that needs no module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from enjin.cli import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
ENJIN = Path(sys.executable).parent / "enjin"


def run(*arguments: str, home: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installed command, with the cloud at *home* where one is given."""
    environment = os.environ | ({"ENJIN_HOME": home} if home else {})
    return subprocess.run(
        [str(ENJIN), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def test_version_and_help_name_every_section() -> None:
    """`--version` is one line; `--help` opens with examples and lists every command."""
    assert run("--version").stdout.startswith("enjin ")
    told = run("--help").stdout
    assert told.startswith("Examples:")
    for _, commands in SECTIONS:
        for name in commands:
            assert f"  {name}" in told


def test_wrong_usage_is_one_line_and_status_2() -> None:
    """A typo is answered with what was meant, on standard error, with a code."""
    done = run("stauts")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'status'?" in done.stderr
    assert done.stderr.rstrip().endswith("[E-CLI-001]")
    assert len(done.stderr.splitlines()) == 1


def test_codes_are_explained() -> None:
    """`enjin help CODE` knows every code of every module, also of those that no command loads."""
    for code in ("E-STP-004", "E-API-001", "E-PKG-004", "E-JNL-001", "E-UP-001"):
        done = run("help", code)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{code}: ")
    assert run("help", "E-NOT-999").returncode == 2


def test_without_a_cloud_the_answer_says_so() -> None:
    """A command for a cloud that is not there: one line, a code, status 1."""
    environment = os.environ | {"ENJIN_HOME": "/var/tmp/enjin-none"}
    done = subprocess.run([str(ENJIN), "status"], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 1
    assert "[E-DIR-001]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_commands_that_bootstrap_offers_are_understood() -> None:
    """Each line under "Try next" is right usage: without a cloud it is refused for that, never for how it was typed."""
    script = (ROOT / "bootstrap").read_text(encoding="utf-8")
    offered = [line.split("  ")[1].split()[1:] for line in script.splitlines() if line.startswith("  $enjin ")]
    assert len(offered) >= 5
    for words in offered:
        told = run(*[word.replace("DIR", str(ROOT / "examples/hello")).replace("NAME", "hello") for word in words], home="/nonexistent")
        assert "[E-CLI-001]" not in told.stderr, words
