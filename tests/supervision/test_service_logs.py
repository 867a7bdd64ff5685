"""The lines of a node's services, read page by page from the rings that init has: each line once and in order, or counted as lost."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervision import service_logs
from supervision.init.log import Log
from supervision.init_link import InitForbidden
from supervision.service_logs import NodeSilent, NoSuchService, Part, ReadNodeLogs, read_at, read_services

SOURCE, OFFSET_US = 17, 1_000_000_000


class Init:
    """The rings of an init whose services write when a test says so; `hands` is not for everybody."""

    def __init__(self, *names: str, forbidden: str = "") -> None:
        self.logs_of = {name: Log() for name in names}
        self.forbidden, self.source = forbidden, SOURCE

    async def list(self) -> dict[str, Any]:
        """Return the services, as init does."""
        return {"services": [{"name": name} for name in self.logs_of], "started_us": self.source}

    async def logs(self, name: str, after: int = 0) -> dict[str, Any]:
        """Return lines after number *after*. Raises: InitForbidden."""
        if name == self.forbidden:
            raise InitForbidden("that service is not within this control's uids")
        return self.logs_of[name].after(after)

    def write(self, name: str, *lines: str) -> None:
        """Let service *name* write."""
        self.logs_of[name].feed("".join(f"{line}\n" for line in lines).encode())


def read(init: Init, **fields: Any) -> tuple[dict[str, Part], dict[str, str]]:
    """Return what one question is answered: parts and what is elsewhere, by service."""
    query = ReadNodeLogs(node="ring1", **fields)
    parts, elsewhere = asyncio.run(read_services(init, query, offset_us=OFFSET_US, forbidden="with root"))  # type: ignore[arg-type]
    return {part.service: part for part in parts}, {one.service: one.where for one in elsewhere}


def texts(part: Part) -> list[str]:
    """Return a part's texts."""
    return [text for _, _, text in part.lines]


def test_the_last_lines_of_each_service() -> None:
    """As many of each as were asked for, the newest; of one alone where it is named; what is not ours to read is named with where."""
    init = Init("daemon", "hands", "hub", forbidden="hands")
    init.write("daemon", *(f"line {number}" for number in range(10)))
    init.write("hub", "only one")
    parts, elsewhere = read(init, lines=3)
    assert {name: texts(part) for name, part in parts.items()} == {"daemon": ["line 7", "line 8", "line 9"], "hub": ["only one"]}
    assert elsewhere == {"hands": "with root"}
    assert list(read(init, service="hub")[0]) == ["hub"]
    with pytest.raises(NoSuchService):
        read(init, service="router")


def test_only_what_was_written_since() -> None:
    """Times are cloud time: those of init, moved; an older line is left out and counts as read."""
    init = Init("daemon")
    init.write("daemon", "old", "new")
    log = init.logs_of["daemon"]
    log.lines[0], log.lines[1] = (5, "old"), (9, "new")
    [part] = read(init, since=OFFSET_US + 9)[0].values()
    assert ([(time, text) for _, time, text in part.lines], part.read, part.last) == ([(OFFSET_US + 9, "new")], 2, 2)


def test_another_life_of_init_begins_anew() -> None:
    """Numbers of an init that is gone mean nothing: everything of the new one is told."""
    init = Init("daemon")
    init.write("daemon", "before")
    [part] = read(init)[0].values()
    other = Init("daemon")
    other.source = SOURCE + 1
    other.write("daemon", "after", "later")
    [again] = read(other, after={"daemon": f"{part.source}:{part.read}"}, lines=1)[0].values()
    assert (again.source, texts(again)) == (SOURCE + 1, ["after", "later"])


@settings(max_examples=40, deadline=None)
@given(
    bursts=st.lists(st.lists(st.text("xyz", max_size=40), max_size=30), max_size=6),
    size=st.sampled_from([0, 300, 7_000]),
    budget=st.sampled_from([1, 500, 20_000, 400_000]),
)
def test_page_by_page_every_line_once(bursts: list[list[str]], size: int, budget: int) -> None:
    """Whatever is written between the pages, however small a page: each line comes once, in order, or is counted as lost."""
    init = Init("daemon")
    written, got, lost = 0, list[int](), 0
    after: dict[str, str] = {"daemon": f"{SOURCE}:0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_logs, "ANSWER_BYTES", budget)
        for burst in [*bursts, []]:
            init.write("daemon", *(line + "." * size for line in burst))
            written += len(burst)
            for _ in range(10_000):
                [part] = read(init, after=after)[0].values()
                got += [number for number, _, _ in part.lines]
                lost += part.lost
                after = {"daemon": f"{part.source}:{part.read}"}
                if part.read >= part.last:
                    break
    assert got == sorted(set(got))
    assert len(got) + lost == init.logs_of["daemon"].last
    assert init.logs_of["daemon"].last == written


ANSWERS = (
    None,
    {"result": None},
    {"result": {"services": [{}], "started_us": 1}},
    {"result": {"services": 5}},
    {"result": {"services": []}},
    [],
)


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_whoever_answers_in_an_inits_place_stops_nobody(answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence and nonsense on the control socket are refusals within a bounded time."""
    monkeypatch.setattr(service_logs, "READ_S", 0.3)

    async def work() -> None:
        path = tmp_path / "init.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(path))
            listening.listen(4)
            listening.setblocking(False)
            asked = asyncio.create_task(_answer(listening, answer))
            with pytest.raises((NodeSilent, NoSuchService)):
                await read_at(path, ReadNodeLogs(node="ring1"), offset_us=0, whose="ring1")
            asked.cancel()

    asyncio.run(work())


async def _answer(listening: socket.socket, answer: Any) -> None:
    """Take one client, and say *answer* to each of its requests; None says nothing."""
    loop = asyncio.get_running_loop()
    client, _ = await loop.sock_accept(listening)
    with client:
        while data := await loop.sock_recv(client, 65_536):
            if answer is not None:
                said = answer | {"id": json.loads(data)["id"]} if isinstance(answer, dict) else answer
                await loop.sock_sendall(client, json.dumps(said).encode())
