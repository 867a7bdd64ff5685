"""The base of everything that travels on the channel, and the checks that need nothing but the value.

May import: enjin, this package's faults.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from enjin.names import NAME_PATTERN
from supervision.steps.faults import BadStep

NODE: Final = re.compile(r"[a-z]{1,8}-[0-9a-f]{16}")
NAME: Final = re.compile(NAME_PATTERN)
LINK: Final = re.compile(r"[a-z][a-z0-9]{0,14}")
NETNS: Final = re.compile(r"enjin-[0-9a-f]{6}")
PART: Final = re.compile(r"[A-Za-z0-9_@+=,.-]{1,255}")
HOST_ROOT: Final = "host"
MESSAGE_LIMIT: Final = 65_536


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value inside a step or a result."""


def check_match(pattern: re.Pattern[str], text: str, what: str) -> None:
    """Refuse *text* unless it matches in full. Raises: BadStep."""
    if pattern.fullmatch(text) is None:
        raise BadStep(f"{what} {text[:60]!r} is not of the form {pattern.pattern}")


def check_relative(path: str, what: str) -> None:
    """Refuse *path* unless it is plain and relative. Raises: BadStep."""
    if len(path) > 1024 or not all(PART.fullmatch(part) and part not in (".", "..") for part in path.split("/")):
        raise BadStep(f"{what} {path[:60]!r} is not a plain relative path")


def check_absolute(path: str, what: str) -> None:
    """Refuse *path* unless it is absolute and otherwise plain. Raises: BadStep."""
    if not path.startswith("/"):
        raise BadStep(f"{what} {path[:60]!r} is not absolute")
    if path != "/":
        check_relative(path[1:], what)


def check_text(value: str, what: str, limit: int = 32_768) -> None:
    """Refuse a value that could not be an argument or a variable. Raises: BadStep."""
    if "\0" in value or len(value) > limit:
        raise BadStep(f"{what} holds a zero byte or more than {limit} characters")


def check_addresses(interfaces: Iterable[str], addresses: Iterable[str] = (), networks: Iterable[str] = ()) -> None:
    """Refuse what is no address with a prefix, no plain address, no network. Raises: BadStep."""
    try:
        for text in interfaces:
            ipaddress.ip_interface(text)
        for text in addresses:
            ipaddress.ip_address(text)
        for text in networks:
            ipaddress.ip_network(text)
    except ValueError as error:
        raise BadStep(str(error)) from error
