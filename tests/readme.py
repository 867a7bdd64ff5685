"""README's tour as data: the fenced `console` blocks, and whether what a command printed is what the README shows.

A block is a sequence of `$ command` lines, each followed by what it prints. A command goes on over lines that end in a backslash, or
over a here-document. `...` stands for anything within a line, and a line that is only `...` for any lines.
"""

from __future__ import annotations

import re
from typing import NamedTuple

FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^### (.*)$", re.MULTILINE)
HERE_DOCUMENT = re.compile(r"<<-?\s*'?(\w+)'?")


def script(command: str, place: str) -> str:
    """Return what bash must run so that *command* happens where the last one left off; the file *place* holds where that is."""
    return f'cd "$(cat {place})"\n{command}\ncode=$?\npwd >{place}\nexit $code\n'


class Step(NamedTuple):
    """One command of the tour and the lines that it prints."""

    title: str
    line: int
    command: str
    expected: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """Return the commands of all console blocks in *text*, in order."""
    found = []
    for block in FENCE.finditer(text):
        headings = [match.group(1) for match in HEADING.finditer(text, 0, block.start())]
        found += _block(headings[-1] if headings else "", text.count("\n", 0, block.start()) + 2, block.group(1).splitlines())
    return found


def _block(title: str, first: int, lines: list[str]) -> list[Step]:
    found: list[Step] = []
    number = 0
    while number < len(lines):
        start = number
        if not lines[number].startswith("$ "):
            raise ValueError(f"line {first + number}: a block begins with `$ `: {lines[number]!r}")
        command = [lines[number][2:]]
        end = HERE_DOCUMENT.search(command[0])
        number += 1
        while number < len(lines) and (command[-1].endswith("\\") or (end and command[-1] != end.group(1))):
            command.append(lines[number].removeprefix("> "))
            number += 1
        expected = []
        while number < len(lines) and not lines[number].startswith("$ "):
            expected.append(lines[number])
            number += 1
        found.append(Step(title, first + start, "\n".join(command), tuple(expected)))
    return found


def _pattern(line: str) -> re.Pattern[str]:
    """Return what a printed line must match: `...` is anything, and the width of a space does not matter."""
    parts = [r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in re.split(r"\.\.\.|…", line.strip())]
    return re.compile(r"\s*" + ".*?".join(parts) + r"\s*")


def difference(expected: tuple[str, ...], printed: str) -> str:
    """Return "" when *printed* is what is *expected*, else the first expected line that did not come."""
    lines = [line for line in printed.splitlines() if line.strip()]
    place = 0
    loose = False
    for line in (line for line in expected if line.strip()):
        if line.strip() in ("...", "…"):
            loose = True
            continue
        pattern = _pattern(line)
        while place < len(lines) and loose and not pattern.fullmatch(lines[place]):
            place += 1
        if place >= len(lines) or not pattern.fullmatch(lines[place]):
            return line
        place += 1
        loose = False
    return "" if loose or place == len(lines) else f"(nothing more, but there came: {lines[place]})"
