"""The control sockets: who may ask what, requests in, answers and events out.

Owns connections and the closed table of operations. A request is read only when all earlier answers are sent, so a
client that does not read is simply not served; events that it does not take are counted.
May import: init's children, handles, loop, wire.
"""

import _socket
import os
import select
import sys
import time
from _collections import deque  # type: ignore[import-not-found]

from supervision.init.children import Children, Service, send_signal
from supervision.init.failpoints import failpoint
from supervision.init.handles import Handles, roomy
from supervision.init.loop import Loop
from supervision.init.wire import DATAGRAM, Refusal, dumps, flag, loads, number, placed, signal_number, text

CLIENTS_MAX = 64
EVENTS_MAX = 256
DEFERRED_MAX = 16
GRACE_MS = 10_000


class Client:
    """One connection. ``uids`` is None for a supervisor."""

    def __init__(self, sock: _socket.socket, uids: list | None) -> None:
        self.sock, self.uids, self.out = sock, uids, deque()
        self.watching, self.lost, self.deferred, self.open = False, 0, 0, True

    def must(self, service: Service) -> Service:
        """Return *service* if this client may name it. Raises: Refusal."""
        ids = (service.uid, service.gid, *service.groups)
        if self.uids is not None and not all(any(low <= one <= high for low, high in self.uids) for one in ids):
            raise Refusal("forbidden", "that service is not within this control's uids")
        return service


class Deferred:
    """An answer that is given later, by a call with the result."""

    def __init__(self, controls: "Controls", client: Client, request: dict) -> None:
        if client.deferred >= DEFERRED_MAX:
            raise Refusal("busy", "too many requests wait")
        client.deferred += 1
        self.controls, self.client, self.request = controls, client, request

    def __call__(self, result: dict) -> None:
        self.client.deferred -= 1
        self.controls.answer(self.client, self.request, {"result": result})


class Controls:
    """Every control socket and connection of one init."""

    def __init__(self, loop: Loop, children: Children, handles: Handles) -> None:
        self.loop, self.children, self.handles = loop, children, handles
        self.started_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        self.clients: list[Client] = []
        self.paths: list[str] = []
        self.places: dict[str, str] = {}  # where things are that a jail would show elsewhere

    def add(self, control: dict) -> None:
        """Serve a control: a path to make, or a descriptor that listens or is connected. Raises: OSError."""
        uids = None if control.get("role") == "supervisor" else control.get("uids", [])
        if "path" in control:
            path = control["path"]
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            if os.path.lexists(path):
                os.unlink(path)
            before = os.umask(0o177)
            sock.bind(path)
            os.umask(before)
            if "owner" in control:
                os.chown(path, control["owner"], -1)
            os.chmod(path, control.get("mode", 0o600))
            sock.listen(16)
            self.paths.append(path)
        else:
            sock = _socket.socket(fileno=control["fd"])
            os.set_inheritable(sock.fileno(), False)
            if not sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
                self._welcome(sock, uids)
                return
        sock.setblocking(False)
        self.loop.on(sock.fileno(), lambda _: self._accept(sock, uids))

    def tell(self, event: dict) -> None:
        """Send *event* to whoever watches."""
        data = dumps(event)
        for client in [client for client in self.clients if client.watching]:
            if len(client.out) >= EVENTS_MAX:
                client.lost += 1
            else:
                client.out.append((data, None))
                self.flush(client)

    def answer(self, client: Client, request: dict, body: dict, fd: int | None = None) -> None:
        """Queue one answer to *request*, with a copy of *fd*, and send what can be sent."""
        if not client.open:
            return
        data = dumps({"id": request.get("id"), **body})
        if len(data) > DATAGRAM:
            data, fd = dumps({"id": request.get("id"), "error": {"code": "failed", "message": "the answer is too long"}}), None
        client.out.append((data, None if fd is None else os.dup(fd)))
        self.flush(client)

    def flush(self, client: Client) -> None:
        """Send until done or full; while full, wait for room and read nothing."""
        try:
            while client.out:
                data, fd = client.out[0]
                rights = [] if fd is None else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
                failpoint("init.answer.send")
                client.sock.sendmsg([data], rights, _socket.MSG_NOSIGNAL)
                client.out.popleft()
                if fd is not None:
                    os.close(fd)
                if client.lost and len(client.out) < EVENTS_MAX // 2:
                    client.out.append((dumps({"event": "lost", "count": client.lost}), None))
                    client.lost = 0
        except BlockingIOError:
            pass
        except OSError:
            self._goodbye(client)
            return
        self.loop.want(client.sock.fileno(), select.EPOLLOUT if client.out else select.EPOLLIN)

    def _accept(self, sock: _socket.socket, uids: list | None) -> None:
        self._welcome(_socket.socket(fileno=sock._accept()[0]), uids)  # type: ignore[attr-defined]

    def _welcome(self, sock: _socket.socket, uids: list | None) -> None:
        if len(self.clients) >= CLIENTS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        roomy(sock)
        client = Client(sock, uids)
        self.loop.on(sock.fileno(), lambda _: self._serve(client))
        self.clients.append(client)

    def _goodbye(self, client: Client) -> None:
        if client.open:
            client.open = False
            self.clients.remove(client)
            self.children.forget(client)
            self.loop.off(client.sock.fileno())
            client.sock.close()
            for _, fd in client.out:
                if fd is not None:
                    os.close(fd)
            client.out.clear()

    def _serve(self, client: Client) -> None:
        if client.out:
            self.flush(client)
            return
        try:
            data, extra, flags, _ = client.sock.recvmsg(DATAGRAM, _socket.CMSG_SPACE(64), _socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, extra, flags = b"", [], 0
        fds = [int.from_bytes(raw[at : at + 4], sys.byteorder) for _, kind, raw in extra
               if kind == _socket.SCM_RIGHTS for at in range(0, len(raw) - 3, 4)]  # fmt: skip
        try:
            if data:
                self._carry_out(client, data, fds, bool(flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC)))
            else:
                self._goodbye(client)
        finally:
            for fd in fds:
                os.close(fd)

    def _carry_out(self, client: Client, data: bytes, fds: list[int], truncated: bool) -> None:
        request: dict = {}
        try:
            if truncated:
                raise Refusal("invalid", "the datagram is too long")
            request = loads(data)
            operation = OPERATIONS.get(text(request, "op"))
            if operation is None:
                raise Refusal("unknown", "there is no such operation")
            result = operation(self, client, request, fds)
            if result is not None:
                passed = result.pop("descriptor", None)
                self.answer(client, request, {"result": result}, passed)
        except Refusal as error:
            self.answer(client, request, {"error": {"code": error.args[0], "message": error.args[1]}})
        except OSError as error:
            self.answer(client, request, {"error": {"code": "failed", "message": error.strerror or str(error), "errno": error.errno}})
        except Exception as error:
            self.answer(client, request, {"error": {"code": "invalid", "message": f"{type(error).__name__}: {error}"}})


def _named(controls: Controls, client: Client, request: dict) -> Service:
    name = text(request, "name")
    if name not in controls.children.services:
        raise Refusal("unknown", f"there is no service {name}")
    return client.must(controls.children.services[name])


def _spawn(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    spec = request["service"]
    service = client.must(Service(placed(spec, controls.places) if controls.places else spec))
    if client.uids is not None:
        service.no_new_privs, service.nice = True, max(0, service.nice)
        if service.name in controls.children.services:
            client.must(controls.children.services[service.name])
    new = controls.children.spawn(service)
    return {**controls.children.services[service.name].view(), "new": new}


def _start(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    service = _named(controls, client, request)
    controls.children.start(service)
    return service.view()


def _stop(controls: Controls, client: Client, request: dict, _: list[int]) -> dict | None:
    service = _named(controls, client, request)
    asked = signal_number(request, "signal", service.signal)
    if service.pid:
        service.waiters.append(Deferred(controls, client, request))
    controls.children.stop(service, number(request, "grace_ms", GRACE_MS), asked)
    return None if service.pid else service.view()


def _signal(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    service = _named(controls, client, request)
    send_signal(service.pid, signal_number(request, "signal", service.signal))
    return service.view()


def _list(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    services = [service.view() for service in controls.children.services.values()]
    return {"services": services, "handles": controls.handles.names(), "pid": os.getpid(), "started_us": controls.started_us}


def _listen(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    name, trusted = text(request, "name"), client.uids is None
    return {"descriptor": controls.handles.listen(name, text(request, "address"), number(request, "port", None, 0, 65535), trusted)}


def _take(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    return {"descriptor": controls.handles.descriptor(text(request, "handle"))}


def _give(controls: Controls, client: Client, request: dict, fds: list[int]) -> dict:
    if len(fds) != 1:
        raise Refusal("invalid", "give needs one descriptor")
    handle = "listener:" + text(request, "name")
    controls.handles.keep(handle, fds[0], client.uids is None)
    return {"handle": handle}


def _channel(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    return {"handles": controls.handles.channel(text(request, "name"), client.uids is None)}


def _drop(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    controls.handles.drop(text(request, "handle"), client.uids is None)
    return {}


def _logs(controls: Controls, client: Client, request: dict, _: list[int]) -> dict | None:
    service, after = _named(controls, client, request), number(request, "after", 0)
    log = controls.children.logs.get(service.name)
    if flag(request, "follow", False) and (log is None or log.last <= after):
        controls.children.readers.setdefault(service.name, []).append((after, Deferred(controls, client, request)))
        return None
    return log.after(after) if log else {"lines": [], "lost": 0, "dropped": 0, "last": 0}


def _watch(controls: Controls, client: Client, request: dict, fds: list[int]) -> dict:
    client.watching = True
    return _list(controls, client, request, fds)


def _end(controls: Controls, client: Client, request: dict, _: list[int]) -> dict:
    if client.uids is not None:
        raise Refusal("forbidden", "only a supervisor ends init")
    controls.children.end(number(request, "grace_ms", GRACE_MS))
    return {}


OPERATIONS = {
    "spawn": _spawn, "start": _start, "stop": _stop, "signal": _signal, "list": _list, "listen": _listen, "take": _take,
    "give": _give, "channel": _channel, "drop": _drop, "logs": _logs, "watch": _watch, "end": _end,
}  # fmt: skip
