"""Fuzz one target, guided by what it covers: `python -m tests.fuzz.one NAME CORPUS [libFuzzer's options]`; never returns."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["keys", "bus", "enjin", "ring2", "supervision"]):
    from tests.fuzz.targets import attempt


def main(arguments: list[str]) -> None:
    """Begin; a finding ends the process with libFuzzer's own status."""
    name = arguments[0]
    atheris.Setup([sys.argv[0], *arguments[1:]], lambda data: attempt(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
