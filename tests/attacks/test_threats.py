"""Every threat has a test that exists, or says what is not built yet."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.attacks.threats import CARRIED, NOT_BUILT, TESTS

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = range(1, 81)
NAMED = re.compile(r"test_n(\d{2})_")
SAID = re.compile(r"\bN(\d{1,2})\b")


@cache
def functions() -> dict[str, str]:
    """Return "path::test" -> docstring, for every test function of the tree."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.relative_to(ROOT).as_posix()}::{node.name}"] = ast.get_docstring(node) or ""
    return found


def played() -> dict[int, set[str]]:
    """Return threat -> the tests of the tree that say by name or docstring that they play it."""
    found: dict[int, set[str]] = {}
    for place, text in functions().items():
        for word in [*NAMED.findall(place), *SAID.findall(text)]:
            found.setdefault(int(word), set()).add(place)
    return found


def test_every_threat_is_in_one_table() -> None:
    """No number is missing, and none is both tested and not built."""
    assert sorted(NUMBERS) == sorted([*TESTS, *NOT_BUILT])


@pytest.mark.parametrize("number", sorted(TESTS))
def test_a_threats_tests_are_there(number: int) -> None:
    """What the table names exists in the tree."""
    assert [place for place in TESTS[number] if place not in functions()] == []


@pytest.mark.parametrize("number", sorted(number for number in TESTS if number < 45 or number > 74))
def test_what_trust_rests_on_carries_its_number(number: int) -> None:
    """A threat to keys, grants, bus or journal has a test of that name, or one whose docstring names it."""
    assert played().get(number), f"no test says that it plays N{number}"


@pytest.mark.parametrize("number", sorted(CARRIED))
def test_what_rides_on_the_bus_is_played_on_both(number: int) -> None:
    """One test has the stages alone; the other runs in a cloud of each bus, which its fixture makes."""
    alone, over_both = CARRIED[number]
    assert alone in functions()
    assert over_both in TESTS[number]
    path, name = over_both.split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    fixtures = {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    given = [argument.arg for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name for argument in node.args.args]
    assert any("'zmq', 'nats'" in fixtures.get(argument, "") for argument in given)


def test_a_tested_threat_is_not_called_missing() -> None:
    """Whoever writes the first test of a threat also moves it to the other table."""
    assert sorted(set(played()) & set(NOT_BUILT)) == []
    assert sorted(set(played()) - set(NUMBERS)) == []


def test_what_is_not_built_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The list of threats without a test is printed, each with its reason."""
    with capsys.disabled():
        print(f"\n{len(TESTS)} of {len(NUMBERS)} threats have tests; without one:")
        for number, reason in sorted(NOT_BUILT.items()):
            print(f"  N{number:<3} not built yet: {reason}")
    assert all(NOT_BUILT.values())
