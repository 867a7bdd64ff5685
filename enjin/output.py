"""What a command prints: data on standard output (a table for people, JSON for programs), talk on standard error.

No colour, no wrapping, no spinner unless a terminal reads it. In JSON, times are RFC 3339 in UTC and sizes are bytes;
for people, "3 min ago" and "1.2 GiB".
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from enjin.canonical import to_plain
from enjin.host import clock

UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json`` to a reading command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--reason`` to a changing command."""
    return click.option("--reason", default="", metavar="TEXT", help="Why; kept in the journal.")(function)


def at_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--at`` to a listing."""
    return click.option("--at", default="", metavar="TIME", help="As it was then: RFC 3339, 10m, 2h, 3d ago, or an entry's number.")(
        function
    )


def print_json(value: object) -> None:
    """Print *value* as one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=to_plain).decode() + "\n")
    sys.stdout.flush()


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, empty: str = "none") -> None:
    """Print *rows* as a table: *columns* maps a row's key to its heading."""
    if not rows:
        say(empty)
        return
    lines = [list(columns.values())] + [[show(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        sys.stdout.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n")


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one thing, a field a line."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        sys.stdout.write(f"{name.ljust(width)}  {show(value)}\n")


def show(value: Any) -> str:
    """Return *value* as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={show(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ",".join(show(item) for item in value) or "-"
    return str(value)


def say(text: str) -> None:
    """Tell a person something that is not data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def rfc3339(time_us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 in UTC."""
    moment = datetime.datetime.fromtimestamp(time_us / 1_000_000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """Return a duration in its largest unit: ``42 s``, ``3 min``, ``5 h``, ``2 d``."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def ago(time_us: int, now_us: int | None = None) -> str:
    """Return how long ago *time_us* was."""
    if not time_us:
        return "-"
    return span(max(0, (clock().wall_us if now_us is None else now_us) - time_us) / 1_000_000)
