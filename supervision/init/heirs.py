"""Listening sockets that an init before this one has left in the hands of others.

A node that was given a listener keeps it when the init that made it dies, so its port cannot be listened on again; nor need it be: the
node's own init gives the descriptor back. Owns that asking. Whoever answers is not trusted: what comes must be a socket that listens at
the very address and port.
May import: init's wire.
"""

import _socket
import os
import sys

from supervision.init.failpoints import failpoint
from supervision.init.wire import DATAGRAM, Refusal, dumps, loads

ANSWER_S = 2.0


def inherit(directory: str, name: str, address: str, port: int) -> int | None:
    """Return a descriptor of listener *name* from whichever init at a socket in *directory* holds it; None when none does."""
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        if entry.endswith(".sock") and (fd := _take(f"{directory}/{entry}", f"listener:{name}")) is not None:
            if _listens(fd, address, port):
                return fd
            os.close(fd)
    return None


def _take(path: str, handle: str) -> int | None:
    """Ask the init at *path* for what it holds as *handle*."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    found: list[int] = []
    try:
        sock.settimeout(ANSWER_S)
        sock.connect(path)
        failpoint("init.heir.send")
        sock.send(dumps({"id": 1, "op": "take", "handle": handle}))
        data, rights, _, _ = sock.recvmsg(DATAGRAM, _socket.CMSG_SPACE(64))
        for level, kind, payload in rights:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                found += [int.from_bytes(payload[at : at + 4], sys.byteorder) for at in range(0, len(payload) // 4 * 4, 4)]
        if "error" not in loads(data) and len(found) == 1:
            os.set_inheritable(found[0], False)
            return found.pop()
    except (OSError, Refusal):
        return None
    finally:
        sock.close()
        for fd in found:
            os.close(fd)
    return None


def _listens(fd: int, address: str, port: int) -> bool:
    """Say whether *fd* is a TCP socket that listens at *address* and *port*."""
    try:
        sock = _socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    try:
        accepts = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        return bool(accepts) and sock.type == _socket.SOCK_STREAM and sock.getsockname()[:2] == (address, port)
    except OSError:
        return False
    finally:
        sock.close()
