"""Bridges, links, addresses and routes of nodes, made to match a plan.

Owns the only door to pyroute2; runs inside hands' worker. Each function compares and changes only what differs, so that repeating it mends
what someone removed. Touches no network namespace but those that it is told by path, and the one it runs in only for a fabric without name.

INV-NET-1: a link is made in the fabric with its other end inside the node: nothing ever appears in the host's own namespace.

May import: supervision.kernel, pyroute2.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from enjin.failpoints import failpoint
from supervision import kernel

DIRECTORY: Final = "/run/netns"
NODAD: Final = 2
HOST_OWN: Final = "/proc/thread-self/ns/net"


def netns_path(name: str) -> str:
    """Return where the namespace *name* is kept; "" is the caller's own."""
    return f"{DIRECTORY}/{name}" if name else ""


@contextlib.contextmanager
def within(path: str) -> Iterator[IPRoute]:
    """Act inside the network namespace at *path* ("": the caller's own)."""
    home = os.open(HOST_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if path:
            target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                kernel.setns(target, kernel.NEWNET)
            finally:
                os.close(target)
        try:
            with IPRoute() as route:
                yield route
        finally:
            kernel.setns(home, kernel.NEWNET)
    finally:
        os.close(home)


def _index(route: IPRoute, name: str) -> int:
    return next(iter(route.link_lookup(ifname=name)), 0)


def _ensure_addresses(route: IPRoute, index: int, wanted: list[str]) -> bool:
    present = {f"{m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}" for m in route.get_addr(index=index)}
    missing = [str(ipaddress.ip_interface(text)) for text in wanted if str(ipaddress.ip_interface(text)) not in present]
    for text in missing:
        address = ipaddress.ip_interface(text)
        flags = {"flags": NODAD} if address.version == 6 else {}
        route.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)
    return bool(missing)


def _ensure_up(route: IPRoute, index: int) -> bool:
    message = route.get_links(index)[0]
    if message["flags"] & 1:
        return False
    route.link("set", index=index, state="up")
    return True


def ensure_fabric(netns: str, bridge: str, addresses: list[str]) -> bool:
    """Make or mend the bridge; return whether anything had to be done."""
    changed = _ensure_netns(netns) if netns else False
    with within(netns_path(netns)) as route:
        changed |= _ensure_up(route, 1)
        index = _index(route, bridge)
        if not index:
            route.link("add", ifname=bridge, kind="bridge")
            index = _index(route, bridge)
            changed = True
        _quiet(bridge)
        changed |= _ensure_addresses(route, index, addresses)
        changed |= _ensure_up(route, index)
    return changed


def fabric_missing(netns: str, bridge: str, addresses: list[str]) -> bool:
    """Tell whether a bridge that was made is gone, is down or lacks an address; changes nothing."""
    path = netns_path(netns)
    if path and not os.path.exists(path):
        return True
    with within(path) as route:
        index = _index(route, bridge)
        if not index or not route.get_links(index)[0]["flags"] & 1:
            return True
        present = {f"{m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}" for m in route.get_addr(index=index)}
        return bool({str(ipaddress.ip_interface(text)) for text in addresses} - present)


def _ensure_netns(name: str) -> bool:
    path = netns_path(name)
    os.makedirs(DIRECTORY, exist_ok=True)
    if os.path.exists(path) and os.stat(path).st_dev != os.stat(DIRECTORY).st_dev:
        return False
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o400))
    home = os.open(HOST_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(kernel.NEWNET)
        kernel.mount(HOST_OWN, path, None, kernel.MS_BIND)
    finally:
        kernel.setns(home, kernel.NEWNET)
        os.close(home)
    return True


def _forget(path: str) -> None:
    """Take the namespace's file away, whatever was mounted on it or over it.

    ``ip netns add`` binds the directory onto itself, which hides mounts made before, and a hidden one cannot be unmounted here.
    A file that is a mount point in other mount namespaces only can be unlinked, and its mounts go with it (Linux 3.18, vfs_unlink).
    """
    failpoint("fabric.forget.spawn")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            kernel.unshare(kernel.NEWNS)
            kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            for target in (path, DIRECTORY, path):
                with contextlib.suppress(OSError):
                    while True:
                        kernel.umount(target, kernel.MNT_DETACH)
            os.unlink(path)
            status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        os.unlink(path)


def remove_fabric(netns: str, bridge: str) -> bool:
    """Remove the bridge, and the namespace when it has a name."""
    path = netns_path(netns)
    if not netns:
        with within("") as route:
            index = _index(route, bridge)
            if index:
                route.link("del", index=index)
            return bool(index)
    if not os.path.exists(path):
        return False
    _forget(path)
    with contextlib.suppress(OSError):
        os.rmdir(DIRECTORY)
    return True


def attach(
    netns: str, inside: str, bridge: str, port: str, name: str, addresses: list[str], gateway: list[str], isolated: bool
) -> list[str]:
    """Give the namespace *inside* its interface *name*, a port of *bridge*; return what had to be made."""
    made = []
    with within(inside) as route:
        present = bool(_index(route, name))
    with within(netns_path(netns)) as route:
        master = _index(route, bridge)
        if not master:
            raise LookupError(f"there is no bridge {bridge}")
        index = _index(route, port)
        if not (present and index):
            made.append("link")
            if index:
                route.link("del", index=index)
            elif present:
                _remove_inside(inside, name)
            target = os.open(inside, os.O_RDONLY | os.O_CLOEXEC)
            try:
                route.link("add", ifname=port, kind="veth", peer={"ifname": name, "net_ns_fd": target})
            finally:
                os.close(target)
            index = _index(route, port)
        _quiet(port)
        route.link("set", index=index, master=master, state="up")
        if isolated:
            route.brport("set", index=index, isolated=1)
    with within(inside) as route:
        made += _configure(route, name, addresses, gateway)
    return made


def _remove_inside(inside: str, name: str) -> None:
    with within(inside) as route:
        route.link("del", index=_index(route, name))


def _configure(route: IPRoute, name: str, addresses: list[str], gateway: list[str]) -> list[str]:
    made = []
    _ensure_up(route, 1)
    index = _index(route, name)
    _quiet(name)
    if _ensure_addresses(route, index, addresses):
        made.append("address")
    _ensure_up(route, index)
    for text in gateway:
        address = ipaddress.ip_address(text)
        try:
            route.route("add", dst="0.0.0.0/0" if address.version == 4 else "::/0", gateway=text, oif=index)
            made.append("route")
        except NetlinkError as error:
            if error.code != 17:  # it is there
                raise
    return made


def _quiet(name: str) -> None:
    """Let nobody on the link configure it: no router advertisements, no redirects, no generated addresses."""
    for key, value in (("ipv6 accept_ra", "0"), ("ipv6 autoconf", "0"), ("ipv6 accept_redirects", "0"), ("ipv6 addr_gen_mode", "1")):
        with contextlib.suppress(OSError), open(f"/proc/sys/net/{key.split()[0]}/conf/{name}/{key.split()[1]}", "w") as file:
            file.write(value)


def missing(netns: str, inside: str, bridge: str, port: str, name: str, addresses: list[str], gateway: list[str]) -> list[str]:
    """Return which of `link`, `address`, `route` of a node is not as planned; changes nothing."""
    lost = []
    try:
        with within(netns_path(netns)) as route:
            master, index = _index(route, bridge), _index(route, port)
            if not index or route.get_links(index)[0].get_attr("IFLA_MASTER") != master:
                lost.append("link")
        with within(inside) as route:
            index = _index(route, name)
            if not index:
                return ["link", "address", *(["route"] if gateway else [])]
            if not route.get_links(index)[0]["flags"] & 1 and "link" not in lost:
                lost.append("link")
            present = {f"{m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}" for m in route.get_addr(index=index)}
            if {str(ipaddress.ip_interface(text)) for text in addresses} - present:
                lost.append("address")
            routes = {m.get_attr("RTA_GATEWAY") for m in route.get_routes() if m["dst_len"] == 0}
            if {str(ipaddress.ip_address(text)) for text in gateway} - routes:
                lost.append("route")
    except FileNotFoundError:
        return ["link", "address", *(["route"] if gateway else [])]
    return lost


def way_missing(inside: str, name: str) -> bool:
    """Tell whether the link that leads out of a node is gone, down, or not its default route any more; changes nothing."""
    try:
        with within(inside) as route:
            index = _index(route, name)
            if not index or not route.get_links(index)[0]["flags"] & 1:
                return True
            return not any(m["dst_len"] == 0 and m.get_attr("RTA_OIF") == index for m in route.get_routes())
    except FileNotFoundError:
        return True


def detach(netns: str, port: str) -> bool:
    """Remove a node's link; its other end goes with it."""
    path = netns_path(netns)
    if path and not os.path.exists(path):
        return False
    with within(path) as route:
        index = _index(route, port)
        if index:
            route.link("del", index=index)
        return bool(index)


def own_addresses(inside: str = "") -> list[str]:
    """Return every address of the namespace, loopback left out."""
    with within(inside) as route:
        found = {str(m.get_attr("IFA_ADDRESS")) for m in route.get_addr()}
    return sorted(text for text in found if not ipaddress.ip_address(text).is_loopback)


def loopback_up(inside: str) -> bool:
    """Bring the loopback interface of a namespace up."""
    with within(inside) as route:
        return _ensure_up(route, 1)


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "fabric.ensure": ensure_fabric,
    "fabric.missing": fabric_missing,
    "fabric.remove": remove_fabric,
    "link.attach": attach,
    "link.missing": missing,
    "link.detach": detach,
    "way.missing": way_missing,
    "addresses": own_addresses,
    "loopback.up": loopback_up,
}
