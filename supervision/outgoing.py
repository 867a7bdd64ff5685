"""A way out to the network for a jail, in user space, that touches nothing of the machine's own network.

Owns slirp4netns as a process beside the node (recorded, in its control groups, ended with it) and the rules that keep it from addresses
that
are ours. May import: supervision.{confinement,firewall,kernel,records,steps,workshop}.

INV-OUT-1: loopback, link-local (metadata) and every own address of the host and of ring 1 are closed before the way opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from typing import Final, NoReturn

from supervision import firewall, kernel
from supervision.confinement import Held, become, execute, fork_held, no_new_privileges, read_some
from supervision.records import Identity, identify
from supervision.steps import NodeFailed, NodeSpec, Unsupported
from supervision.workshop import Workshop

NAME: Final = "outgoing"
PROGRAM: Final = "/usr/bin/slirp4netns"
DEADLINE_S: Final = 10.0
OWN_NETWORKS: Final = ("10.80.0.0/16",)


async def open_way(shop: Workshop, spec: NodeSpec, pid: int) -> Identity:
    """Give the network namespace of *pid* a way out; return the identity of the process that carries it.

    Ring 1: closed by rules in the jail's own namespace, put there by the ring above. A build: closed by rules in ours, by the uid of its
    carrier, which is the node's own.

    Raises:
        Unsupported: slirp4netns is missing.
    """
    if not os.access(PROGRAM, os.X_OK):
        raise Unsupported("slirp4netns is missing: no way out for jails", hint="install the Debian package slirp4netns")
    inside = f"/proc/{pid}/ns/net"
    own = [] if shop.groups is None else await shop.worker.call("addresses")
    closed = [*OWN_NETWORKS, *shop.config.closed, *spec.closed, *own]
    if spec.purpose == "ring1":
        await shop.worker.call("firewall.replace", inside=inside, text=firewall.outer_text(closed))
        return await _carry(shop, spec, inside, "10.0.2.0/24", uid=None)
    shop.ways_out[spec.uid] = closed
    await shop.apply_rules()
    return await _carry(shop, spec, inside, "10.0.3.0/24", uid=spec.uid)


async def leads_out(shop: Workshop, pid: int) -> bool:
    """Tell whether the network namespace of *pid* still leads out over what was given to it."""
    return not await shop.worker.call("way.missing", inside=f"/proc/{pid}/ns/net", name=firewall.WAY)


async def close_way(shop: Workshop, spec: NodeSpec) -> None:
    """Forget the rules of a node's way out."""
    if shop.ways_out.pop(spec.uid, None) is not None:
        await shop.apply_rules()


async def _carry(shop: Workshop, spec: NodeSpec, inside: str, network: str, uid: int | None) -> Identity:
    network_space = os.open(inside, os.O_RDONLY | os.O_CLOEXEC)
    user_space = fcntl.ioctl(network_space, kernel.NS_GET_USERNS) if uid is not None else -1
    ready_read, ready_write = os.pipe()
    line = [PROGRAM, "--configure", "--mtu=1500", "--disable-host-loopback", "--enable-seccomp"]
    line += [f"--ready-fd={ready_write}", f"--cidr={network}"]
    line += [f"--userns-path=/proc/self/fd/{user_space}"] if uid is not None else ["--enable-sandbox"]
    line += ["--netns-type=path", f"/proc/self/fd/{network_space}", firewall.WAY]

    def body(held: Held) -> NoReturn:
        held.wait()
        if uid is None:
            _own_mounts()
        else:
            _own_tun()
            no_new_privileges()
            become(uid)
        execute(line, {"PATH": "/usr/sbin:/usr/bin"})

    keep = [ready_write, network_space] + ([user_space] if uid is not None else [])
    child = fork_held(body, keep=keep)
    shop.reaper.expect(child.pid)
    os.close(ready_write)
    os.set_blocking(ready_read, False)
    try:
        if shop.groups is not None:
            shop.groups.attach(spec.node, child.pid, spec.purpose == "ring1")
        child.go()
        if await read_some(ready_read, DEADLINE_S, "slirp4netns does not become ready") != b"1":
            await asyncio.sleep(0)
            raise NodeFailed(f"slirp4netns ended at once{child.errors()}")
        identity = identify(child.pid, shop.groups)
        if identity is None:
            raise NodeFailed(f"slirp4netns ended at once{child.errors()}")
        return identity
    finally:
        child.close()
        for descriptor in (ready_read, network_space, user_space):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _own_mounts() -> None:
    """See mounts that nobody else shares: slirp4netns makes its root in /tmp, which the kernel forbids where that is a shared mount."""
    kernel.unshare(kernel.NEWNS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def _own_tun() -> None:
    """See /dev/net/tun as a node of our own where the host's is for root only."""
    if os.stat("/dev/net/tun").st_mode & stat.S_IWOTH:
        return
    _own_mounts()
    kernel.mount("enjin", "/dev/net", "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=755,size=16k")
    os.mknod("/dev/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
    os.chmod("/dev/net/tun", 0o666)
