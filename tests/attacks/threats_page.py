"""Bring `docs/threats.md` up to the table in code: `python -m tests.attacks.threats_page`. What an attack is stands in the page alone."""

from __future__ import annotations

import re
from pathlib import Path

from tests.attacks.threats import NOT_BUILT, TESTS

PAGE = Path(__file__).resolve().parents[2] / "docs/threats.md"
ROW = re.compile(r"^\| N(\d+) \| (.+) \| (.+) \|$", re.MULTILINE)


def proof(number: int) -> str:
    """Return the last column of an attack's row."""
    return "<br>".join(f"`{place}`" for place in TESTS[number]) if number in TESTS else f"not built yet: {NOT_BUILT[number]}"


def renewed(text: str) -> str:
    """Return the page with each row's last column as the table in code has it."""
    return ROW.sub(lambda row: f"| N{row[1]} | {row[2]} | {proof(int(row[1]))} |", text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
