"""The descriptors that outlive daemons: listening sockets and both ends of every channel.

May import: init's wire.
"""

import _socket
import os

from supervision.init.wire import Refusal

HANDLES_MAX = 512
BACKLOG = 4096
ROOM_BYTES = 1024 * 1024


def roomy(sock: _socket.socket) -> None:
    """Let whole datagrams of the largest size wait in *sock*, several of them where the system allows."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, ROOM_BYTES)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, ROOM_BYTES)


def listening(address: str, port: int) -> _socket.socket:
    """Return a TCP socket that listens. Raises: OSError."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if family == _socket.AF_INET6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    sock.listen(BACKLOG)
    return sock


class Handles:
    """Descriptors by handle: ``listener:NAME``, ``channel:NAME:0`` and ``channel:NAME:1``.

    A trusted one was made by a supervisor: only a supervisor drops or replaces it.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, bool]] = {}

    def names(self) -> list[str]:
        """Return every handle."""
        return sorted(self._held)

    def has(self, handle: str) -> bool:
        """Say whether *handle* is held."""
        return handle in self._held

    def descriptor(self, handle: str) -> int:
        """Return the descriptor of *handle*. Raises: Refusal."""
        if handle not in self._held:
            raise Refusal("unknown", f"there is no {handle}")
        return self._held[handle][0]

    def keep(self, handle: str, fd: int, trusted: bool) -> None:
        """Hold a copy of *fd* under *handle*, in place of what was there. Raises: Refusal."""
        if not handle.isprintable() or len(handle) > 128:
            raise Refusal("invalid", "a handle is short printable text")
        if handle in self._held:
            self.drop(handle, trusted)
        elif len(self._held) >= HANDLES_MAX:
            raise Refusal("busy", "too many handles")
        self._held[handle] = (os.dup(fd), trusted)

    def drop(self, handle: str, trusted: bool) -> None:
        """Close *handle*. Raises: Refusal."""
        fd = self.descriptor(handle)
        if self._held[handle][1] and not trusted:
            raise Refusal("forbidden", f"{handle} belongs to the supervisor")
        del self._held[handle]
        os.close(fd)

    def channel(self, name: str, trusted: bool) -> list[str]:
        """Return both handles of channel *name*, which is made when there is none. Raises: Refusal, OSError."""
        handles = [f"channel:{name}:0", f"channel:{name}:1"]
        if not all(handle in self._held for handle in handles):
            for handle, sock in zip(handles, _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET), strict=True):
                roomy(sock)
                self.keep(handle, sock.fileno(), trusted)
                sock.close()
        return handles

    def listen(self, name: str, address: str, port: int, trusted: bool) -> int:
        """Return the descriptor of a socket that listens there, made once. Raises: Refusal, OSError."""
        handle = f"listener:{name}"
        if handle in self._held:
            there = _socket.socket(fileno=os.dup(self._held[handle][0]))
            at = there.getsockname()[:2]
            there.close()
            if at != (address, port or at[1]):
                raise Refusal("exists", f"{name} listens at {at[0]} port {at[1]}")
        else:
            sock = listening(address, port)
            self.keep(handle, sock.fileno(), trusted)
            sock.close()
        return self._held[handle][0]
