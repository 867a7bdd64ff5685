"""Parse a Procfile: which processes an app has, one shell line each.

Owns the format. Does not run anything: a line is given to a shell only inside the app's own jail.
"""

from __future__ import annotations

import re
from typing import Final

from enjin.errors import Refused

BYTES_MAX: Final = 65_536
LINE_BYTES_MAX: Final = 4_096
PROCESSES_MAX: Final = 32
_LINE: Final = re.compile(r"([A-Za-z0-9_-]+)[ \t]*:(.*)")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")


class BadProcfile(Refused):
    """The Procfile does not parse."""

    code = "E-PKG-020"
    remedy = "write one `name: command` per line, for example `web: gunicorn app:app`; names of a-z, 0-9 and -; # starts a comment"


def parse_procfile(data: bytes) -> dict[str, str]:
    """Return each process's name and shell line, in the order of the file.

    Raises:
        BadProcfile: With the number of the first line that is wrong.
    """
    if len(data) > BYTES_MAX:
        raise BadProcfile(f"Procfile has {len(data):,} bytes; {BYTES_MAX:,} are allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong(data[: error.start].count(b"\n") + 1, "is not UTF-8") from error
    processes: dict[str, str] = {}
    # Only \n ends a line: splitlines() would also break at form feeds and U+2028, and two readers would see two files.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        content = line.removesuffix("\r").strip(" \t")
        if content and not content.startswith("#"):
            name, command = _parse_line(content, number)
            if name in processes:
                raise _wrong(number, f"names {name!r} a second time")
            processes[name] = command
    if not processes:
        raise BadProcfile("Procfile names no process")
    if len(processes) > PROCESSES_MAX:
        raise BadProcfile(f"Procfile names {len(processes)} processes; {PROCESSES_MAX} are allowed")
    return processes


def _parse_line(line: str, number: int) -> tuple[str, str]:
    if len(line.encode()) > LINE_BYTES_MAX:
        raise _wrong(number, f"has more than {LINE_BYTES_MAX:,} bytes")
    for letter in line:
        if (letter < " " and letter != "\t") or letter == "\x7f":
            raise _wrong(number, f"holds the control character {letter!r}")
    match = _LINE.fullmatch(line)
    if match is None:
        raise _wrong(number, f"is not of the form `name: command`: {ascii(line)[:60]}")
    name, command = match[1], match[2].strip(" \t")
    if _NAME.fullmatch(name) is None:
        raise _wrong(number, f"names the process {name[:40]!r}, which is not of the form {_NAME.pattern}")
    if not command:
        raise _wrong(number, f"gives {name!r} no command")
    return name, command


def _wrong(number: int, what: str) -> BadProcfile:
    return BadProcfile(f"Procfile line {number} {what}", line=number)
