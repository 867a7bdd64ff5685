"""Init holds what must outlive a daemon: children, sockets, logs; it obeys, restarts, and never waits for anybody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest

from enjin.errors import EnjinError
from supervision.init_link import InitBusy, InitFailed, InitForbidden, InitGone, InitLink, InitRefused, InitStale, InitUnknown
from tests.supervision.inits import PYTHON, ROOT, alive, running, script, sleeper, wait_for


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    """Run one test's coroutine within a deadline."""
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_spawn_is_idempotent_on_name_and_generation() -> None:
    """The same generation starts once; an older one is stale; a newer one waits until the old has ended."""

    async def main() -> None:
        async with running() as init:
            first = await init.link.spawn(sleeper(generation=2))
            again = await init.link.spawn(sleeper(generation=2))
            assert (first["new"], again["new"], again["pid"]) == (True, False, first["pid"])
            with pytest.raises(InitStale):
                await init.link.spawn(sleeper(generation=1))
            with pytest.raises(InitBusy):
                await init.link.spawn(sleeper(generation=3))
            stopped = await init.link.stop("job", 1000)
            assert (stopped["pid"], stopped["status"]) == (0, -signal.SIGTERM)
            newer = await init.link.spawn(sleeper(generation=3))
            assert newer["new"]
            assert newer["pid"] != first["pid"]
            assert not alive(first["pid"])

    run(main())


def test_ended_service_keeps_its_status_and_starts_again_when_asked() -> None:
    """`restart: never` leaves the status to be read; `start` runs the same generation again."""

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script("raise SystemExit(7)"))
            assert (await init.until("job", lambda view: view["status"] is not None))["status"] == 7
            assert not (await init.link.spawn(script("raise SystemExit(7)")))["new"]
            assert (await init.link.start("job"))["pid"]
            assert (await init.until("job", lambda view: view["status"] is not None))["status"] == 7

    run(main())


def test_killed_service_is_back_at_once_and_a_crasher_is_slowed() -> None:
    """The first restart comes at once; one that ends again and again waits 50 ms, 100 ms, and so on."""

    async def main() -> None:
        async with running() as init:
            first = await init.link.spawn(sleeper(restart="always"))
            began = time.monotonic()
            os.kill(first["pid"], signal.SIGKILL)
            second = await init.until("job", lambda view: view["pid"] not in (0, first["pid"]))
            assert time.monotonic() - began < 0.5
            assert second["restarts"] == 1
            began = time.monotonic()
            await init.link.spawn(script("", name="crasher", restart="always"))
            await init.until("crasher", lambda view: view["restarts"] >= 4)
            assert time.monotonic() - began >= 0.05 + 0.1

    run(main())


def test_exec_failure_is_reported_with_errno() -> None:
    """What the kernel says to the child comes back in the answer, and nothing is left of the service."""

    async def main() -> None:
        async with running() as init:
            with pytest.raises(InitFailed) as caught:
                await init.link.spawn(sleeper(argv=["/nonexistent/program"]))
            assert caught.value.details["errno"] == 2
            with pytest.raises(InitFailed) as caught:
                await init.link.spawn(sleeper(cwd="/nonexistent"))
            assert "directory /nonexistent" in caught.value.message
            assert (await init.link.list())["services"] == []
            await init.link.spawn(sleeper())

    run(main())


def test_service_of_the_specification_that_cannot_start_is_tried_again() -> None:
    """A wrong program in the specification does not stop init."""

    async def main() -> None:
        async with running({"services": [sleeper(argv=["/nonexistent"], restart="always")]}, stderr=subprocess.DEVNULL) as init:
            view = await init.until("job", lambda view: view["restarts"] >= 2)
            assert (view["status"], "execute /nonexistent" in view["error"]) == (127, True)

    run(main())


def test_child_inherits_nothing_but_what_is_named() -> None:
    """A child has 0, 1, 2 and its `fds`; a session of its own, no ignored or blocked signals, no core dumps, its umask and limits."""
    source = """
import os, resource
print([n for n in range(1024) if os.path.exists(f'/proc/self/fd/{n}')])
print(os.getsid(0) == os.getpid(), oct(os.umask(0)), os.getcwd(), dict(os.environ))
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE))
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
print(status['SigBlk'].strip(), status['NoNewPrivs'].strip())
"""

    async def main() -> None:
        async with running({"channels": ["talk"]}) as init:
            await init.link.spawn(
                script(source, fds={"3": "channel:talk:0", "5": "channel:talk:1"}, umask=0o027, files=100, cwd="/usr", env={"A": "b"})
                | {"no_new_privs": True}
            )
            await init.until("job", lambda view: view["status"] is not None)
            lines = [text for _, _, text in (await init.link.logs("job"))["lines"]]
            environment = "{'A': 'b', 'LC_CTYPE': 'C.UTF-8'}"
            assert lines == ["[0, 1, 2, 3, 5]", f"True 0o27 /usr {environment}", "(0, 0) (100, 100)", "0000000000000000 1"]

    run(main())


def test_orphans_are_reaped() -> None:
    """A grandchild whose parent ends becomes init's, and leaves no zombie."""
    source = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid(); print(os.getpid()); time.sleep(0.05); os._exit(0)
    os._exit(0)
os.wait(); time.sleep(1000)
"""

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script(source))
            orphan = int((await init.link.logs("job", 0, follow=True))["lines"][0][2])
            await wait_for(lambda: not os.path.exists(f"/proc/{orphan}"), "the orphan's end")

    run(main())


def test_stop_kills_after_the_grace_time_and_sweeps_the_group() -> None:
    """A service that ignores SIGTERM is killed; `leftovers: kill` ends what it left in its group too."""
    source = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child: print(child)
time.sleep(1000)
"""

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script(source, leftovers="kill"))
            child = int((await init.link.logs("job", 0, follow=True))["lines"][0][2])
            assert (await init.link.stop("job", 50))["status"] == -signal.SIGKILL
            await wait_for(lambda: not alive(child), "the end of the group")

    run(main())


def test_watch_tells_starts_and_ends() -> None:
    """Each start and end is an event with pid, generation and status, in order."""

    async def main() -> None:
        async with running() as init:
            assert (await init.link.watch())["services"] == []
            view = await init.link.spawn(script("raise SystemExit(3)", generation=9))
            events = init.link.events()
            assert await anext(events) == {"event": "started", "name": "job", "pid": view["pid"], "generation": 9}
            assert await anext(events) == {"event": "exited", "name": "job", "pid": view["pid"], "generation": 9, "status": 3}

    run(main())


def test_listeners_are_held_passed_and_made_once() -> None:
    """A listener outlives its server: connections wait in it and the next process answers them."""
    source = """
import socket, os
server = socket.socket(fileno=3)
while True:
    connection, _ = server.accept(); connection.sendall(b'%d' % os.getpid()); connection.close()
"""

    async def main() -> None:
        async with running() as init:
            descriptor = await init.link.listen("web", "127.0.0.1", 0)
            with socket.socket(fileno=descriptor) as listener:
                address = listener.getsockname()
            os.close(await init.link.listen("web", "127.0.0.1", address[1]))
            with pytest.raises(InitStale):
                await init.link.listen("web", "127.0.0.1", address[1] + 1)
            with pytest.raises(InitFailed):
                await init.link.listen("other", "127.0.0.1", address[1])
            view = await init.link.spawn(script(source, fds={"3": "listener:web"}))
            with socket.create_connection(address, 5) as client:
                assert int(client.recv(64)) == view["pid"]
            await init.link.stop("job", 0)
            with socket.create_connection(address, 5) as waiting:
                second = await init.link.start("job")
                assert int(await asyncio.to_thread(waiting.recv, 64)) == second["pid"]
            await init.link.drop("listener:web")
            with pytest.raises(InitUnknown):
                await init.link.take("listener:web")

    run(main())


def test_given_descriptor_is_held_and_taken_again() -> None:
    """`give` keeps a copy of any descriptor; `take` hands it out, also to another client."""

    async def main() -> None:
        async with running() as init:
            reader, writer = os.pipe()
            assert await init.link.give("pipe", writer) == "listener:pipe"
            os.close(writer)
            taken = await init.link.take("listener:pipe")
            os.write(taken, b"through")
            assert os.read(reader, 16) == b"through"
            os.close(taken)
            await init.link.drop("listener:pipe")
            assert os.read(reader, 16) == b""
            os.close(reader)

    run(main())


def test_channel_survives_the_restart_of_both_ends() -> None:
    """What was sent while the other end is down waits in the channel; neither end ever sees its peer go."""
    source = """
import os, socket
channel = socket.socket(fileno=3)
while True:
    data = channel.recv(65536)
    channel.send(data + b' by %d' % os.getpid())
"""

    async def main() -> None:
        async with running() as init:
            assert await init.link.channel("talk") == ("channel:talk:0", "channel:talk:1")
            service = script(source, fds={"3": "channel:talk:1"})
            first = await init.link.spawn(service)

            async def say(word: bytes) -> bytes:
                with socket.socket(fileno=await init.link.take("channel:talk:0")) as end:
                    await asyncio.to_thread(end.send, word)
                    return await asyncio.to_thread(end.recv, 65536)

            assert await say(b"one") == b"one by %d" % first["pid"]
            await init.link.signal("job", "SIGKILL")
            await init.until("job", lambda view: view["pid"] == 0)
            waiting = asyncio.create_task(say(b"x" * 60_000))
            second = await init.link.start("job")
            assert await waiting == b"x" * 60_000 + b" by %d" % second["pid"]

    run(main())


def test_log_is_numbered_followed_and_kept_over_restarts() -> None:
    """Line numbers go on over restarts; a follower waits; bytes that are no text do no harm; long lines are cut."""

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script("import os; os.write(1, b'a\\n\\xff\\0b\\n' + b'c' * 20000)"))
            await init.until("job", lambda view: view["status"] is not None)
            await wait_for(lambda: last(init.link, 5), "all lines")
            lines = (await init.link.logs("job"))["lines"]
            assert [number for number, _, _ in lines] == [1, 2, 3, 4, 5]
            assert [len(text) for _, _, text in lines] == [1, 3, 8192, 8192, 3616]
            assert lines[1][2] == "\ufffd\0b"
            waiting = asyncio.create_task(init.link.logs("job", 5, follow=True))
            await init.link.start("job")
            assert (await waiting)["lines"][0][0] == 6

    async def last(link: InitLink, number: int) -> bool:
        return (await link.logs("job"))["last"] == number

    run(main())


def test_log_flood_is_bounded_counted_and_harms_nobody() -> None:
    """A writer without pause is dropped at the rate limit; init stays small, the others' logs and answers stay prompt."""
    flood = "import os\nwhile True: os.write(1, b'flood %s\\n' % (b'x' * 50) * 900)"

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script(flood, name="flood"))
            await init.link.spawn(script("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.005)", name="quiet"))
            dropped = 0

            async def enough() -> bool:
                nonlocal dropped
                dropped = (await init.link.logs("flood", 1 << 40))["dropped"]
                return dropped > 100_000

            await wait_for(enough, "drops")
            slowest = 0.0
            for _ in range(20):
                began = time.monotonic()
                await init.link.list()
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 0.5
            await init.until("quiet", lambda view: view["status"] == 0)
            assert [text for _, _, text in (await init.link.logs("quiet"))["lines"]] == [str(number) for number in range(50)]
            assert pss_mb(init.process.pid) < (10 if os.geteuid() == 0 else 14)
            await init.link.stop("flood", 0)

    run(main())


def test_lost_lines_are_said() -> None:
    """A reader that comes too late is told how many lines it missed."""

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script("for n in range(3000): print(n, 'y' * 200)"))

            async def all_there() -> bool:
                return bool((await init.link.logs("job", 1 << 40))["last"] == 3000)

            await wait_for(all_there)
            batch = await init.link.logs("job", 100)
            assert batch["lines"][0][0] == 101 + batch["lost"]
            assert batch["lost"] > 0

    run(main())


def pss_mb(pid: int) -> float:
    """Return the proportional set size of an init, which hides itself from all but root: for others its resident set size."""
    path, word = ("smaps_rollup", "Pss:") if os.geteuid() == 0 else ("status", "VmRSS:")
    with open(f"/proc/{pid}/{path}") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(word))


def test_init_imports_little() -> None:
    """Init starts without the modules that would make it large and slow."""
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import supervision.init.start; print(*sys.modules)"
    loaded = subprocess.run([PYTHON, "-I", "-S", "-c", source], capture_output=True, text=True, check=True).stdout.split()
    assert {"re", "enum", "json", "socket", "signal", "ctypes", "typing", "collections", "subprocess"} & set(loaded) == set()


def test_init_is_small() -> None:
    """Idle, with one child: under 10 MB, even if nobody shares its pages."""

    async def main() -> None:
        async with running({"services": [sleeper()]}) as init:
            await init.until("job", lambda view: view["pid"])
            assert pss_mb(init.process.pid) < (10 if os.geteuid() == 0 else 14)

    run(main())


def test_client_that_does_not_read_blocks_nobody() -> None:
    """The requests of a deaf client pile up on its own side; the others are served, and init stays small."""

    async def main() -> None:
        deaf, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        async with running({"controls": [{"fd": theirs.fileno(), "role": "supervisor"}]}, pass_fds=(theirs.fileno(),)) as init:
            theirs.close()
            await init.link.spawn(script("print('z' * 8000)\n" * 8))
            await init.until("job", lambda view: view["status"] == 0)
            deaf.setblocking(False)
            deaf.send(b'{"id":0,"op":"watch"}')
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 100_000:
                    deaf.send(b'{"id":1,"op":"logs","name":"job"}')
                    sent += 1
            assert sent < 100_000
            for generation in range(2, 300):
                await init.link.spawn(sleeper(name=f"many{generation % 4}", generation=generation))
                await init.link.stop(f"many{generation % 4}", 0, "SIGKILL")
            assert pss_mb(init.process.pid) < 15
            deaf.close()
            await init.link.list()

    run(main())


@pytest.mark.parametrize(
    "datagram",
    [b"", b"{", b"[]", b"\xff", b"null", b'{"id":1}', b'{"op":"no"}', b'{"op":7}', b'{"op":"stop","name":"none"}', b'{"op":"spawn"}',
     b'{"op":"spawn","service":7}', b'{"op":"spawn","service":{"name":"x","argv":["relative"]}}',
     b'{"op":"spawn","service":{"name":"x","argv":["/bin/true"],"fds":{"3":"listener:none"}}}',
     b'{"op":"spawn","service":{"name":"x","argv":["/bin/true"],"fds":{"x":"listener:none"}}}',
     b'{"op":"spawn","service":{"name":"x","argv":["/bin/true"],"signal":"SIG_DFL"}}',
     b'{"op":"spawn","service":{"name":"x","argv":["/bin/true"],"uid":-5}}',
     b'{"op":"listen","name":"x","address":"300.1.1.1","port":1}', b'{"op":"listen","name":"x","address":"127.0.0.1","port":99999}',
     b'{"op":"give","name":"x"}', b'{"op":"logs","name":{}}', b"[" * 60_000, b'{"op":"list"' + b" " * 65_500 + b"}" * 60],
    ids=lambda datagram: repr(datagram[:40]),
)  # fmt: skip
def test_bad_requests_change_nothing(datagram: bytes) -> None:
    """Whatever a client sends, init refuses with a reason and goes on."""

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        async with running({"controls": [{"fd": theirs.fileno(), "role": "supervisor"}]}, pass_fds=(theirs.fileno(),)) as init:
            theirs.close()
            ours.settimeout(5)
            ours.send(datagram)
            answer = await asyncio.to_thread(ours.recv, 65536)
            assert b'"error"' in answer or (datagram == b"" and answer == b"")
            listing = await init.link.list()
            assert (listing["services"], listing["handles"]) == ([], [])
            ours.close()

    run(main())


def test_daemon_role_reaches_only_its_uids(as_root: None) -> None:
    """A daemon's control spawns, stops, signals and reads only services of its uids, gid and groups included, and cannot end init."""

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = {"fd": theirs.fileno(), "role": "daemon", "uids": [[4000, 4009]]}
        async with running({"controls": [control], "channels": ["hands"]}, pass_fds=(theirs.fileno(),)) as init:
            theirs.close()
            await init.link.spawn(sleeper(name="hands", env={"SECRET": "canary"}))
            async with await InitLink.connect(ours.detach()) as daemon:
                for refused in (
                    sleeper(),
                    sleeper(uid=0, gid=4000),
                    sleeper(uid=4000, gid=0),
                    sleeper(uid=4000, gid=4000, groups=[0]),
                    sleeper(name="hands", generation=2, uid=4000),
                ):
                    with pytest.raises(InitForbidden):
                        await daemon.spawn(refused)
                for attempt in (
                    daemon.stop("hands"), daemon.signal("hands", 9), daemon.start("hands"), daemon.logs("hands"), daemon.end(),
                    daemon.drop("channel:hands:0"),
                ):  # fmt: skip
                    with pytest.raises(InitForbidden):
                        await attempt
                view = await daemon.spawn(script(
                    "import os, time; print(os.getuid(), os.getgid(), os.getgroups(), flush=True)\n"
                    "status = [line.split() for line in open('/proc/self/status')]\n"
                    "print([line[1] for line in status if line[0] in ('NoNewPrivs:', 'CapEff:')], flush=True)\n"
                    "time.sleep(1000)",
                    uid=4001, gid=4002, groups=[4003], nice=-5,
                ))  # fmt: skip
                await wait_for(lambda: lines(daemon, 2))
                assert [text for _, _, text in (await daemon.logs("job"))["lines"]] == ["4001 4002 [4003]", "['0000000000000000', '1']"]
                assert os.getpriority(os.PRIO_PROCESS, view["pid"]) == 0
                listed = await daemon.list()
                assert "canary" not in repr(listed)
                assert (await daemon.stop("job", 1000))["pid"] == 0

    async def lines(link: InitLink, count: int) -> bool:
        return len((await link.logs("job"))["lines"]) == count

    run(main())


def test_init_closes_itself_to_other_processes(as_root: None) -> None:
    """Init is not dumpable: a process of its own uid cannot read its memory or descriptors."""

    async def main() -> None:
        async with running(wrapper=("setpriv", "--reuid=4005", "--regid=4005", "--clear-groups")) as init:
            await init.link.spawn(script(
                f"import os\nfor path in ('mem', 'environ', 'maps', 'fd/0'):\n"
                f"  try: open(f'/proc/{init.process.pid}/{{path}}').read(1)\n"
                f"  except PermissionError: print('denied')\n"
                f"  else: print('read', path)"
            ))  # fmt: skip
            await init.until("job", lambda view: view["status"] is not None)
            assert [text for _, _, text in (await init.link.logs("job"))["lines"]] == ["denied"] * 4

    run(main())


def test_end_stops_everything_and_leaves_nothing() -> None:
    """`end` asks every service to stop, kills what stays, adopted ones too, and init exits with status 0."""
    source = """
import os, time
if os.fork() == 0:
    os.setsid(); print(os.getpid(), flush=True); time.sleep(1000)
time.sleep(1000)
"""

    async def main() -> None:
        async with running() as init:
            await init.link.spawn(script(source, restart="always"))
            stray = int((await init.link.logs("job", 0, follow=True))["lines"][0][2])
            service = await init.service("job")
            await init.link.end(500)
            assert await asyncio.to_thread(init.process.wait, 5) == 0
            assert not alive(service["pid"])
            assert not alive(stray)
            with pytest.raises(InitGone):
                await init.link.list()

    run(main())


def test_sigterm_is_an_orderly_end() -> None:
    """SIGTERM to init is `end`."""

    async def main() -> None:
        async with running({"services": [sleeper(restart="always")]}) as init:
            view = await init.until("job", lambda view: view["pid"])
            init.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(init.process.wait, 5) == 0
            assert not alive(view["pid"])

    run(main())


def test_control_socket_by_path(home) -> None:  # type: ignore[no-untyped-def]
    """A control may be a path that init makes, with its mode, and removes at the end."""

    async def main() -> None:
        path = home / "control"
        async with running({"controls": [{"path": str(path), "mode": 0o640, "role": "supervisor"}]}) as init:
            await wait_for(lambda: path.exists() and path.stat().st_mode & 0o777 == 0o640)  # narrower until it listens
            async with await InitLink.connect(path) as second:
                assert await second.list() == await init.link.list()
            with pytest.raises(EnjinError):
                await second.list()
        assert not path.exists()
        with pytest.raises(InitGone):
            await InitLink.connect(path)

    run(main())


def test_oversized_request_is_refused_before_it_is_sent() -> None:
    """A service description beyond a datagram is an error of the asker."""

    async def main() -> None:
        async with running() as init:
            with pytest.raises(InitRefused):
                await init.link.spawn(sleeper(env={"BIG": "x" * 70_000}))
            await init.link.spawn(script("import os; print(len(os.environ['BIG']))", env={"BIG": "x" * 60_000}))
            assert (await init.link.logs("job", 0, follow=True))["lines"][0][2] == "60000"

    run(main())
