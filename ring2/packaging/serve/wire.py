"""HTTP/1.1 requests on a connection: heads, fields and bodies, read strictly.

Owns the format of what a client sends. What two readers could understand in two ways is refused.

Source: RFC 9112, 2, 5, 6 and 7.
"""

from __future__ import annotations

import io
import re
import socket
from typing import Any, Final

HEAD_BYTES_MAX: Final = 65_536
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([\x21-\x7e\x80-\xff]{1,16384}) HTTP/1\.([01])")
_VALUE: Final = rb"(?:[\x21-\x7e\x80-\xff](?:[ \t\x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"+):[ \t]*(" + _VALUE + rb")[ \t]*")

Fields = list[tuple[str, str]]


class BadRequest(Exception):
    """The peer does not speak HTTP/1.1 as we do."""


class Connection:
    """One client's connection: its socket and what was read too far."""

    def __init__(self, sock: socket.socket, peer: Any) -> None:
        self.sock = sock
        self.peer = peer
        self.buffer = b""

    def fill(self) -> bool:
        """Read once more; False at the end."""
        piece = self.sock.recv(65_536)
        self.buffer += piece
        return bool(piece)

    def take(self, count: int) -> bytes:
        """Remove *count* bytes from what was read."""
        piece, self.buffer = self.buffer[:count], self.buffer[count:]
        return piece

    def read_head(self) -> bytes | None:
        """Return the head of the next request without its empty line; None when the peer closed before one."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > HEAD_BYTES_MAX:
                raise BadRequest("431 Request Header Fields Too Large")
            if not self.fill():
                return None
        if end > HEAD_BYTES_MAX:
            raise BadRequest("431 Request Header Fields Too Large")
        head = self.take(end + 4)[:-4]
        return head.lstrip(b"\r\n")

    def read_line(self, limit: int = 256) -> bytes:
        """Return the next line without its end."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            if len(self.buffer) > limit or not self.fill():
                raise BadRequest("400 Bad Request")
        return self.take(end + 2)[:-2]


class Body(io.RawIOBase):
    """A request's body, by length or in chunks."""

    def __init__(self, connection: Connection, length: int, chunked: bool) -> None:
        super().__init__()
        self._connection = connection
        self._left = length
        self._chunked = chunked
        self._first = True

    def readable(self) -> bool:
        """Say yes: ``io.BufferedReader`` asks."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill *target* with the next bytes; 0 at the end."""
        if self._chunked and self._left == 0:
            self._next_chunk()
        if self._left == 0 or not len(target):
            return 0
        if not self._connection.buffer and not self._connection.fill():
            raise BadRequest("400 Bad Request")
        piece = self._connection.take(min(self._left, len(target)))
        self._left -= len(piece)
        target[: len(piece)] = piece
        return len(piece)

    def _next_chunk(self) -> None:
        if not self._first and self._connection.read_line() != b"":
            raise BadRequest("400 Bad Request")
        self._first = False
        size = self._connection.read_line().split(b";", 1)[0].strip(b" \t")
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise BadRequest("400 Bad Request")
        self._left = int(size, 16)
        if self._left == 0:
            while self._connection.read_line(HEAD_BYTES_MAX):
                continue
            self._chunked = False

    def drain(self, limit: int = 1 << 16) -> bool:
        """Skip what the app did not read; False when that is too much to be worth it."""
        while limit > 0:
            piece = self.read(8_192)
            if not piece:
                return True
            limit -= len(piece)
        return False


def parse_head(head: bytes) -> tuple[str, str, int, Fields]:
    """Return (method, target, minor version, fields as a list of lower-case name and value)."""
    lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequest("400 Bad Request")
    fields = []
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadRequest("400 Bad Request")
        fields.append((field[1].lower().decode("ascii"), field[2].decode("latin-1")))
    return match[1].decode("ascii"), match[2].decode("latin-1"), int(match[3]), fields


def body_of(fields: Fields) -> tuple[int, bool]:
    """Return (length, chunked) that *fields* announce; two announcements are an attack."""
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if codings and (lengths or len(codings) > 1 or codings[0].lower() != "chunked"):
        raise BadRequest("400 Bad Request")
    if len(lengths) > 1 or (lengths and not re.fullmatch(r"[0-9]{1,18}", lengths[0])):
        raise BadRequest("400 Bad Request")
    return int(lengths[0]) if lengths else 0, bool(codings)
