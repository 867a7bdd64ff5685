"""Serve a directory of files, as a WSGI application.

Owns which files are public and what is said about them. Validators are hashes of the contents, because all files of a sealed
release have the same time. Names that start with a dot are not served.

Source: RFC 9110, 8.8.3, 13 and 14.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_TAGS_MAX: Final = 10_000
_PIECE: Final = 65_536
_TYPES: Final = {
    **dict.fromkeys(("html", "htm"), "text/html; charset=utf-8"),
    **dict.fromkeys(("js", "mjs"), "text/javascript; charset=utf-8"),
    **dict.fromkeys(("json", "map"), "application/json"),
    **dict.fromkeys(("jpg", "jpeg"), "image/jpeg"),
    **{name: f"text/{name}; charset=utf-8" for name in ("css", "csv")},
    **{name: f"image/{name}" for name in ("png", "gif", "webp", "avif")},
    **{name: f"font/{name}" for name in ("woff", "woff2", "ttf", "otf")},
    **{name: f"video/{name}" for name in ("mp4", "webm")},
    **{name: f"application/{name}" for name in ("pdf", "wasm", "xml", "zip")},
    "txt": "text/plain; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "svg": "image/svg+xml",
    "ico": "image/vnd.microsoft.icon",
    "gz": "application/gzip",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "webmanifest": "application/manifest+json",
}


class Static:
    """The WSGI application that serves one directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._tags: dict[tuple[int, ...], str] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return answer(start_response, "405 Method Not Allowed", [("Allow", "GET, HEAD")])
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "surrogateescape")
        found = self.find(path)
        if found is None:
            return answer(start_response, "404 Not Found")
        if os.path.isdir(found):
            where = environ.get("RAW_URI", path).partition("?")[0]
            # "//host/" would send the client elsewhere: exactly one slash at the start.
            target = "/" + where.lstrip("/") + "/" + ("?" + environ["QUERY_STRING"] if environ["QUERY_STRING"] else "")
            return answer(start_response, "308 Permanent Redirect", [("Location", target)])
        try:
            file = open(found, "rb")  # noqa: SIM115 - `send` or `pieces` closes it
        except OSError:
            return answer(start_response, "404 Not Found")
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            file.close()
            return answer(start_response, "404 Not Found")
        return self.send(file, state, found, environ, start_response)

    def find(self, path: str) -> str | None:
        """Return the file or directory beneath the root that *path* names; None when there is none or it is not for the public."""
        parts = [part for part in path.split("/") if part]
        if "\0" in path or any(part.startswith(".") and part != ".well-known" for part in parts):
            return None
        found = os.path.realpath(os.path.join(self.root, *parts))
        if found != self.root and not found.startswith(self.root + os.sep):
            return None
        if any(part.startswith(".") and part != ".well-known" for part in os.path.relpath(found, self.root).split(os.sep) if part != "."):
            return None
        if os.path.isdir(found):
            index = os.path.join(found, "index.html")
            if os.path.isfile(index):
                return index if path.endswith("/") else found
            return None
        if not path.endswith("/") and not os.path.exists(found) and os.path.isfile(found + ".html"):
            return found + ".html"
        return found if os.path.isfile(found) and not path.endswith("/") else None

    def send(
        self, file: BinaryIO, state: os.stat_result, path: str, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer with *file*, or what the client's conditions and range leave of it; closes it."""
        tag = self.tag(file, state)
        name = os.path.basename(path)
        kind = _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")
        headers = [("ETag", tag), ("Content-Type", kind), ("Accept-Ranges", "bytes"), ("Cache-Control", "no-cache")]
        headers.append(("X-Content-Type-Options", "nosniff"))
        wanted = [one.strip().removeprefix("W/") for one in environ.get("HTTP_IF_NONE_MATCH", "").split(",")]
        if tag in wanted or "*" in wanted:
            file.close()
            start_response("304 Not Modified", headers)
            return []
        first, last, partial = 0, state.st_size - 1, False
        asked = environ.get("HTTP_RANGE", "")
        if asked and environ.get("HTTP_IF_RANGE", tag) == tag and environ["REQUEST_METHOD"] == "GET":
            span = parse_range(asked, state.st_size)
            if isinstance(span, str):
                file.close()
                return answer(start_response, "416 Range Not Satisfiable", [("Content-Range", f"bytes */{state.st_size}")])
            if span is not None:
                first, last, partial = *span, True
        length = last - first + 1
        headers.append(("Content-Length", str(length)))
        if partial:
            headers.append(("Content-Range", f"bytes {first}-{last}/{state.st_size}"))
        start_response("206 Partial Content" if partial else "200 OK", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            file.close()
            return []
        return pieces(file, first, length)

    def tag(self, file: Any, state: os.stat_result) -> str:
        """Return the strong validator of *file*: a hash of its contents, remembered while the file is the same."""
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in self._tags:
            if len(self._tags) >= _TAGS_MAX:
                self._tags.clear()
            self._tags[key] = '"' + hashlib.file_digest(file, "sha256").hexdigest()[:32] + '"'
        return self._tags[key]


def pieces(file: BinaryIO, first: int, length: int) -> Iterator[bytes]:
    """Yield *length* bytes of *file* from *first* and close it."""
    with file:
        file.seek(first)
        while length > 0 and (piece := file.read(min(_PIECE, length))):
            length -= len(piece)
            yield piece


def parse_range(text: str, size: int) -> tuple[int, int] | str | None:
    """Return (first, last) of a single range, None when it is to be ignored, or "unsatisfiable".

    Source: RFC 9110, 14.1.2 and 14.2: several ranges may be ignored.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        count = int(match[2])
        return "unsatisfiable" if count == 0 or size == 0 else (max(0, size - count), size - 1)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    return "unsatisfiable" if first >= size else (first, last)


def answer(start_response: Callable[..., Any], status: str, headers: Iterable[tuple[str, str]] = ()) -> list[bytes]:
    """Answer with *status* and one line of text."""
    body = f"{status}\n".encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *headers])
    return [body]
