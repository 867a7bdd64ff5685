"""The README's tour is run literally: every command, in order, in one shell session of one cloud, and what it prints is compared.

Only the ports differ from the text: the cloud of the test has its own. The table of promises is checked too: each names a command
that exists.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud import ENJIN, ROOT, Cloud, cloud
from tests.readme import Step, difference, script, steps

README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT_BASE = 7080
STEP_S_MAX = 60.0


class Visitor:
    """Somebody who types the tour's commands into one terminal."""

    def __init__(self, made: Cloud, folder: Path) -> None:
        self.place = folder / ".place"
        self.place.write_text(str(folder), encoding="utf-8")
        self.cloud = made
        self.environment = made.environment | {"PATH": f"{ENJIN.parent}:{os.environ['PATH']}"}

    def ports(self, text: str) -> str:
        """Return *text* with the README's default ports replaced by this cloud's."""
        for offset in (0, 1, 1000):
            text = re.sub(rf"(?<=:){DEFAULT_BASE + offset}\b", str(self.cloud.port_base + offset), text)
        return text

    def type(self, step: Step) -> tuple[int, str]:
        """Run a step's command where the last one left off; return its status and all it printed."""
        done = subprocess.run(
            ["bash", "-c", script(self.ports(step.command), str(self.place))],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=STEP_S_MAX,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    """A visitor in front of a cloud that `./bootstrap` would have left: up, with examples/hello in it."""
    with cloud() as made:
        made.push(ROOT / "examples/hello", "hello")
        folder = made.folder / "visitor"
        folder.mkdir()
        yield Visitor(made, folder)


TOUR = steps(README)


def test_the_tour_has_ten_steps() -> None:
    """Ten numbered steps, each with a command."""
    titles = list(dict.fromkeys(step.title for step in TOUR))
    assert [title.split(".")[0] for title in titles] == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize("step", TOUR, ids=lambda step: f"line{step.line}")
def test_the_tour_runs_as_it_is_written(visitor: Visitor, step: Step) -> None:
    """The command ends well and prints what the README shows; a step that is to fail says so in its own line (`|| echo ...`)."""
    status, printed = visitor.type(step)
    wrong = difference(tuple(visitor.ports(line) for line in step.expected), printed)
    where = f"README.md line {step.line}: $ {step.command}"
    assert (status, wrong) == (0, ""), f"{where}\nexpected: {wrong}\nprinted (status {status}):\n{printed}"


def promises() -> list[tuple[str, str]]:
    """Return the rows of the table of promises: (promise, command that proves it)."""
    table = README.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return [(cells[0].strip(), cells[1].strip().strip("`")) for cells in rows[1:] if len(cells) == 2]


@pytest.mark.parametrize(("promise", "command"), promises())
def test_every_promise_names_a_proof_that_exists(promise: str, command: str) -> None:
    """A promise's command runs tests that are there or measures a figure that is known; otherwise it says `not proven yet`."""
    if command == "not proven yet":
        return
    words = command.split()
    assert words[:2] in (["./bootstrap", "test"], ["./bootstrap", "bench"]), promise
    if words[1] == "test":
        for word in (word for word in words[2:] if not word.startswith("--")):
            path, _, name = word.partition("::")
            assert (ROOT / path).exists(), f"{promise}: {path} is not there"
            assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{promise}: no test {name}"
    else:
        from tests.bench.figures import FIGURES

        assert set(words[2:]) <= set(FIGURES), promise


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (("app  state",), "app   state\n", True),
        (("live in ... s",), "live in 0.93 s\n", True),
        (("live in ... s",), "live in 0.93 m\n", False),
        (("a", "...", "c"), "a\nb\nb\nc\n", True),
        (("a", "..."), "a\nb\n", True),
        (("a",), "a\nb\n", False),
        (("a", "b"), "a\n", False),
        ((), "", True),
    ],
)
def test_the_comparison_bites(expected: tuple[str, ...], printed: str, same: bool) -> None:
    """What differs is found; what is left open by an ellipsis is not."""
    assert (difference(expected, printed) == "") is same


def test_commands_are_read_as_a_shell_reads_them() -> None:
    """A here-document and a line that goes on belong to one command; what follows is what it prints."""
    text = "### 1. Try\n\n```console\n$ cat > f <<'END'\nx\nEND\n$ echo a \\\n> b\na b\n```\n"
    first, second = steps(text)
    assert (first.command, first.expected) == ("cat > f <<'END'\nx\nEND", ())
    assert (second.command, second.expected, second.title) == ("echo a \\\nb", ("a b",), "1. Try")
