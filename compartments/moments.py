"""Moments as people write them: RFC 3339, how long ago (``10m``, ``2h``, ``3d``), or a journal entry's number."""

from __future__ import annotations

import datetime
import re
from typing import Final, NamedTuple

from enjin.errors import Invalid

_AGO: Final = re.compile(r"(\d{1,6})(s|m|h|d)")
_NUMBER: Final = re.compile(r"\d{1,15}")
_UNIT_US: Final = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class BadMoment(Invalid):
    """A moment is not written in a known way."""

    code = "E-MOM-001"
    remedy = "write 2026-03-01T12:00:00Z, 10m, 2h, 3d, or an entry number"


class At(NamedTuple):
    """After which entry, or at which microsecond of cloud time; exactly one is set."""

    number: int | None
    time: int | None


def parse_moment(text: str, now_us: int) -> At:
    """Return the moment that *text* names, seen from *now_us*. Raises: BadMoment."""
    if match := _AGO.fullmatch(text):
        return At(None, now_us - int(match[1]) * _UNIT_US[match[2]])
    if _NUMBER.fullmatch(text):
        return At(int(text), None)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise BadMoment(f"{text[:60]!r} is not a moment") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return At(None, int(moment.timestamp() * 1_000_000))
