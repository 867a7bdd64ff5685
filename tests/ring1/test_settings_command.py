"""How a setting's value gets into `enjin config set` without standing in a list of processes."""

from __future__ import annotations

import io
import sys

import pytest

from ring1.commands import settings
from ring1.commands.settings import INPUT_MAX, BadSetting, given

CANARY = "canary-4e1b"


def test_an_argument_as_it_stands() -> None:
    """Everything after the first = is the value, also another =, spaces, or nothing."""
    assert [list(given(text)) for text in ("A=1", "A=b=c d", "A=")] == [[("A", "1")], [("A", "b=c d")], [("A", "")]]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line each; empty lines and comments are none; a value may hold #, = and spaces."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("# settings\n\nA=1\n  \nB=x # y=z \n"))
    assert list(given("-")) == [("A", "1"), ("B", "x # y=z ")]


def test_a_name_alone_is_asked_for_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the value is asked for without being shown."""
    asked = {}
    monkeypatch.setattr(sys, "stdin", _Terminal())
    monkeypatch.setattr(settings.click, "prompt", lambda key, **options: asked.update(options, key=key) or CANARY)
    assert list(given("TOKEN")) == [("TOKEN", CANARY)]
    assert (asked["key"], asked["hide_input"]) == ("TOKEN", True)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"={CANARY}", ""),
        (f"{CANARY} more", ""),
        (CANARY.replace("-", "_"), ""),
        ("-", f"A=1\n{CANARY}\n"),
        ("-", f"={CANARY}\n"),
        ("-", f"A={CANARY}" + "x" * INPUT_MAX),
    ],
)
def test_n75_what_is_malformed_is_not_repeated(monkeypatch: pytest.MonkeyPatch, text: str, lines: str) -> None:
    """N75: whoever forgets the name gets an error without the value in it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    with pytest.raises(BadSetting) as refused:
        list(given(text))
    told = f"{refused.value.message} {refused.value.hint}"
    assert CANARY not in told
    assert CANARY.replace("-", "_") not in told
