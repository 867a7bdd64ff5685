"""`docs/threats.md` says what the table in code says: each attack with its tests, or what is not built yet."""

from __future__ import annotations

from tests.attacks.threats import NOT_BUILT, TESTS
from tests.attacks.threats_page import PAGE, ROW, renewed


def test_the_page_names_the_same_tests() -> None:
    """A row per number, in order, each with what the table in code holds; `python -m tests.attacks.threats_page` renews it."""
    text = PAGE.read_text(encoding="utf-8")
    assert [int(row[1]) for row in ROW.finditer(text)] == sorted([*TESTS, *NOT_BUILT])
    assert renewed(text) == text
