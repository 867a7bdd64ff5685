"""What counts as an answer, and how a Procfile line becomes a process."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ring2.command import service, shell_line
from ring2.health import probe, request, verdict
from supervision.instances import RunInstance


@pytest.mark.parametrize(
    ("line", "good"),
    [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.0 404 Not Found", True), (b"HTTP/1.1 302", True), (b"HTTP/1.1 500 No", False),
     (b"HTTP/1.1 503 Busy", False), (b"SSH-2.0-OpenSSH", False), (b"HTTP/1.1", False), (b"", False), (b"HTTP/1.1 xyz", False)],
)  # fmt: skip
def test_below_500_is_an_answer(line: bytes, good: bool) -> None:
    """Any HTTP status below 500 says that the app serves."""
    assert (verdict(line + b"\r\n") == "") is good


@pytest.mark.parametrize("path", ["/\r\nX: y", "/ HTTP/1.1", "/\u00e9"])
def test_path_cannot_add_a_header(path: str) -> None:
    """A path that is no path asks for /."""
    assert request(path).startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n")


def test_probe_gives_up_in_time() -> None:
    """A server that accepts and says nothing, one that closes, and none at all: each has its reason, none hangs."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            assert await probe("127.0.0.1", port, "") == ""
            assert await probe("127.0.0.1", port, "/", 0.1) == "it does not answer in time"
        assert "nothing listens" in await probe("127.0.0.1", port, "/", 0.5)

        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        closing = await asyncio.start_server(close, "127.0.0.1", 0)
        async with closing:
            port = closing.sockets[0].getsockname()[1]
            assert await probe("127.0.0.1", port, "/", 1) != ""

    asyncio.run(asyncio.wait_for(main(), 10))


@pytest.mark.parametrize(
    ("line", "shell"),
    [
        ("gunicorn app:app --bind 0.0.0.0:$PORT", "exec gunicorn app:app --bind 0.0.0.0:$PORT"),
        ("  python -m app  ", "exec python -m app"),
        ("FLASK_ENV=prod X=1 python app.py 2>&1", "FLASK_ENV=prod X=1 exec python app.py 2>&1"),
        ("a && b", "a && b"),
        ("cd src; python x.py", "cd src; python x.py"),
        ("exec python x.py", "exec python x.py"),
        ("X='a b' python x.py", "X='a b' python x.py"),
        ("python app.py > out.txt", "exec python app.py > out.txt"),
        ("cat x | sort", "cat x | sort"),
    ],
)
def test_plain_command_replaces_the_shell(line: str, shell: str) -> None:
    """A plain command gets signals itself; a compound one keeps its shell."""
    assert shell_line(line) == shell


def test_port_wins_and_path_can_be_set() -> None:
    """PORT is ours; the rest of the environment is the app's, over our defaults."""
    wish = RunInstance(
        instance="i-00000000000000aa", generation=4, control="x", address="127.0.0.1", port=5000, line="x",
        environment={"PORT": "1", "PATH": "/app/bin"},
    )  # fmt: skip
    env = service(wish)["env"]
    assert (env["PORT"], env["PATH"], env["LANG"]) == ("5000", "/app/bin", "C.UTF-8")
