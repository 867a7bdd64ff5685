"""What somebody removes by hand comes back: links, bridges, addresses, routes, control groups, tables.

Each is removed alone, on a cloud that serves an app; the supervisor mends it by itself, within its own pace.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from bus.directory import read_directory
from compartments import tables
from compartments.history import GetHead
from enjin.canonical import from_text
from keys.frame import open_frame
from keys.grants import Grant, read_grant
from tests.cloud import process_table
from tests.e2e.clouds import BACK_S, Raised, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def ip(pid_or_name: int | str, *words: str) -> Any:
    """Run `ip` in the network namespace of a process, or in a named one; return what `-j` prints."""
    inside = [f"--net=/proc/{pid_or_name}/ns/net" if isinstance(pid_or_name, int) else f"--net=/run/netns/{pid_or_name}"]
    done = subprocess.run(["nsenter", *inside, "ip", "-j", *words], capture_output=True, text=True, check=True, timeout=20)
    return json.loads(done.stdout or "[]")


def links(place: int | str) -> dict[str, str]:
    """Return the links of a namespace, each with the bridge that it is a port of."""
    return {link["ifname"]: link.get("master", "") for link in ip(place, "link") if link["ifname"] != "lo"}


def addresses(place: int | str, name: str) -> set[str]:
    """Return the addresses of a link, those that the kernel made itself left out."""
    found = [info for link in ip(place, "address", "show", "dev", name) for info in link["addr_info"] if info.get("scope") != "link"]
    return {f"{info['local']}/{info['prefixlen']}" for info in found}


def routes(place: int | str) -> set[tuple[str, str, str]]:
    """Return the routes of a namespace."""
    found = [*ip(place, "-4", "route"), *ip(place, "-6", "route")]
    return {(route["dst"], route.get("gateway", ""), route.get("dev", "")) for route in found if not route["dst"].startswith("fe80")}


class Scene:
    """The shared cloud's network as it is when all is well."""

    def __init__(self, cloud: Raised) -> None:
        self.cloud = cloud
        self.fabric = f"enjin-{cloud.tag}"
        self.jail = cloud.init_of(1).pid
        self.app = cloud.one(".enjin/serve").pid
        self.app_id = str(cloud.instances("hello")[0]["id"])
        self.before = self.now()

    def now(self) -> dict[str, Any]:
        """Return everything that is there now."""
        seen: dict[str, Any] = {}
        for name, place in (("fabric", self.fabric), ("jail", self.jail), ("app", self.app)):
            seen[name] = links(place)
            seen[f"{name} routes"] = routes(place)
            seen[f"{name} addresses"] = {link: addresses(place, link) for link in seen[name]}
        return seen

    def is_mended(self) -> bool:
        """Tell whether all is as it was, the app answers, and both its process and the jail are the same ones."""
        try:
            same = self.now() == self.before
        except (subprocess.CalledProcessError, FileNotFoundError):
            return False
        return same and self.cloud.answers("hello", self.cloud.place)

    def wait_mended(self, what: str) -> None:
        """Wait until it is."""
        try:
            wait_for(self.is_mended, BACK_S, what)
        except TimeoutError:
            now = self.now()
            wrong = {key: (value, now[key]) for key, value in self.before.items() if now[key] != value}
            raise AssertionError(f"{what} is not mended: (was, is) {wrong}") from None
        assert (self.cloud.init_of(1).pid, self.cloud.one(".enjin/serve").pid) == (self.jail, self.app)


@pytest.fixture
def scene(hello: Raised) -> Scene:
    """The shared cloud, settled."""
    wait_for(lambda: hello.settled("hello"), BACK_S, "a settled cloud")
    wait_for(lambda: len(hello.instances("hello")) == 1, BACK_S, "one instance")
    return Scene(hello)


def test_ring_1s_link(scene: Scene) -> None:
    """The veth between ring 1 and ring 0's fabric."""
    port = next(name for name, master in scene.before["fabric"].items() if master)
    ip(scene.fabric, "link", "delete", port)
    scene.wait_mended("ring 1's link")


def test_ring_1s_link_is_down(scene: Scene) -> None:
    """Unplugged at the other end."""
    ip(scene.jail, "link", "set", "eth0", "down")
    scene.wait_mended("ring 1's link that is down")


def test_an_apps_link(scene: Scene) -> None:
    """The veth between an app and ring 1's bridge."""
    port = next(name for name, master in scene.before["jail"].items() if master == "apps")
    ip(scene.jail, "link", "delete", port)
    scene.wait_mended("an app's link")


def test_ring_0s_bridge(scene: Scene) -> None:
    """The bridge of ring 0's fabric."""
    ip(scene.fabric, "link", "delete", f"enj{scene.cloud.tag}0")
    scene.wait_mended("ring 0's bridge")


def test_ring_1s_bridge(scene: Scene) -> None:
    """The bridge to which ring 1's apps are connected."""
    ip(scene.jail, "link", "delete", "apps")
    scene.wait_mended("ring 1's bridge")


def test_ring_1s_bridge_has_no_address(scene: Scene) -> None:
    """The gateway of the apps, over which the router reaches them."""
    ip(scene.jail, "address", "flush", "dev", "apps")
    scene.wait_mended("the address of ring 1's bridge")


def test_ring_1s_addresses(scene: Scene) -> None:
    """Both addresses of ring 1's interface, with the routes that follow from them."""
    ip(scene.jail, "address", "flush", "dev", "eth0", "scope", "global")
    scene.wait_mended("ring 1's addresses")


def test_ring_1s_route(scene: Scene) -> None:
    """Ring 1's way out."""
    ip(scene.jail, "route", "delete", "default")
    scene.wait_mended("ring 1's route")


def test_an_apps_addresses_and_route(scene: Scene) -> None:
    """Everything that an app's interface has."""
    ip(scene.app, "address", "flush", "dev", "eth0", "scope", "global")
    scene.wait_mended("an app's addresses")


def test_ring_1s_way_out(scene: Scene) -> None:
    """The user-mode network over which ring 1's builds reach package registries."""
    killed = scene.cloud.one("slirp4netns", "--ready-fd")
    os.kill(killed.pid, signal.SIGKILL)
    scene.cloud.wait_back(lambda: scene.cloud.one("slirp4netns", "--ready-fd"), killed)
    scene.wait_mended("ring 1's way out")


def groups(cloud: Raised) -> list[Path]:
    """Return every control group of the cloud, the deepest first."""
    tops = [path for place in ("*", "*/*") for path in Path("/sys/fs/cgroup").glob(f"{place}/enjin-{cloud.tag}")]
    tops += list(Path("/sys/fs/cgroup").glob(f"enjin-{cloud.tag}"))
    found = {path for top in tops for path in [top, *(one for one in top.rglob("*") if one.is_dir())]}
    return sorted(found, key=lambda path: -len(path.parts))


def test_groups_that_are_empty(scene: Scene) -> None:
    """Every control group that can be removed at once is removed: none that matters is among them, or it comes back."""
    before = groups(scene.cloud)
    for group in before:
        with contextlib.suppress(OSError):
            group.rmdir()
    scene.wait_mended("the cloud without its empty groups")
    assert [group for group in before if not group.exists()] == []


def test_groups_of_an_app(scene: Scene) -> None:
    """An app's processes are moved out of each of its groups, and the groups removed: soon it runs under its limits again.

    Root of a user namespace may not move another uid's processes into a group of version 1, so there the app is started anew.
    """
    own = [group for group in groups(scene.cloud) if group.name == scene.app_id]
    assert own, "the app has no control group"
    for group in own:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parents[3] / "cgroup.procs").write_text(pid)
        group.rmdir()

    def limited() -> bool:
        try:
            known = membership(scene.cloud.one(".enjin/serve").pid)
        except (LookupError, FileNotFoundError):
            return False
        return known.count(f"/{scene.app_id}\n") == len(own)

    wait_for(limited, BACK_S, "the app in its groups")
    wait_for(lambda: scene.cloud.answers("hello", scene.cloud.place), BACK_S, "an answer of the app")
    wait_for(lambda: scene.cloud.settled("hello"), BACK_S, "the app's state")


def membership(pid: int) -> str:
    """Return which control groups a process is in."""
    return Path(f"/proc/{pid}/cgroup").read_text()


@contextlib.contextmanager
def stopped(cloud: Raised, ring: int) -> Iterator[None]:
    """Kill a ring's daemon and keep its init from starting another one meanwhile."""
    init, killed = cloud.init_of(ring), cloud.service(ring, "daemon")
    os.kill(init.pid, signal.SIGSTOP)
    try:
        os.kill(killed.pid, signal.SIGKILL)
        wait_for(lambda: killed.pid not in process_table(), BACK_S, "the end of the daemon")
        yield
    finally:
        os.kill(init.pid, signal.SIGCONT)
    cloud.wait_back(lambda: cloud.service(ring, "daemon"), killed)


@pytest.mark.parametrize("ring", [0, 1])
def test_a_projection_that_is_lost(scene: Scene, ring: int) -> None:
    """The tables are dropped while the daemon is away: replay makes the same rows, and nothing that runs is touched."""
    cloud = scene.cloud
    before = cloud.head(ring)
    with stopped(cloud, ring):
        engine = create_engine(f"sqlite:///{cloud.journal(ring)}")
        with engine.begin() as connection:
            names = set(inspect(connection).get_table_names())
            tables.drop(connection)
            assert set(inspect(connection).get_table_names()) < names
        engine.dispose()
    wait_for(lambda: cloud.settled("hello"), BACK_S, "the cloud after its projection was lost")
    after = cloud.head(ring)
    assert after == before
    assert cloud.verify(ring)["ok"]
    scene.wait_mended("the cloud after its projection was lost")


VERIFY = """
import json, os, sys
from pathlib import Path
from bus.journal import verify
writer, copy, key = sys.argv[1:]
try:
    os.close(os.open(writer, os.O_RDONLY))
    read = True
except PermissionError:
    read = False
found = verify("sqlite:///" + copy, lambda domain: (bytes.fromhex(key),))
print(json.dumps({"read": read, "entries": found.entries, "ok": found.ok, "hash": found.head}))
"""


def test_a_follower_never_reads_the_writers_file(scene: Scene) -> None:
    """Ring 0's copy of ring 1's journal grows and verifies while the writer's file is unreadable to all."""
    cloud = scene.cloud
    writer, node = cloud.journal(1), cloud.nodes()["ring1"]["id"]
    copy = cloud.home / "ring0/children" / node / "followed.db"
    reach = read_directory(cloud.home)
    key = next(grant.keys.journal for grant in map(_grant, reach.grants) if grant.subject == node)
    owner, mode, told = copy.stat(), writer.stat().st_mode, (str(writer), str(copy), key)
    python = next(cloud.home.glob("runtime/*/bin/python"))
    try:
        writer.chmod(0)
        before = cloud.head(1)
        cloud.run("restart", "--app", "hello")
        wait_for(lambda: len(cloud.instances("hello")) == 1, BACK_S, "the old instance to end")
        head = cloud.head(1)
        assert head.number > before.number
        wait_for(lambda: head.number in cloud.ask(1, GetHead())["witnesses"].values(), BACK_S, "ring 0's cosignature")
        done = subprocess.run(
            ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups", str(python), "-c", VERIFY, *told],
            capture_output=True, text=True, check=False, timeout=60, cwd="/",
        )  # fmt: skip
    finally:
        writer.chmod(mode)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"read": False, "entries": head.number, "ok": True, "hash": head.hash}


def _grant(text: str) -> Grant:
    return read_grant(open_frame(from_text(text)))
