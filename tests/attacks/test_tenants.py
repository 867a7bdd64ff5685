"""Two tenants' apps in one real cloud, one hostile: what it can read, see, signal, trace and connect to of the other and of its keepers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from enjin.errors import EnjinError
from ring0.compartments import CreateCompartment
from ring1.apps import ListApps
from tests.attacks.puppet import Puppet, numbers, uid
from tests.attacks.voices import Voices
from tests.cloud import Cloud, wait_for

INSIDE = "/var/lib/enjin"


class Pair(NamedTuple):
    """The attacker, the victim, and where the victim's things lie as ring 1 sees them."""

    attacker: Puppet
    victim: Puppet
    places: list[str]


@pytest.fixture(scope="module", params=["jail", "user"])
def pair(request: pytest.FixtureRequest, cloud: Cloud, voices: Voices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Apps of two compartments, both of one strategy."""
    strategy, folder = request.param, tmp_path_factory.mktemp("tenants")
    names = [f"{word}-{strategy}" for word in ("north", "south")]
    for name in names:
        voices.command(0, CreateCompartment(name=name, kind="environment"))  # type: ignore[arg-type]
    for name in names:
        wait_for(lambda name=name: _known(voices, name), 30, f"ring 1 knows {name}")  # type: ignore[misc]
    puppets: list[Puppet] = []
    try:
        for name in names:
            puppets.append(Puppet(cloud, folder, f"app-{name}", name, strategy, f"canary{secrets.token_hex(8)}"))
        attacker, victim = puppets
        made = victim.do(f"open(os.path.join(os.environ['HOME'], '{victim.secret}'), 'w').write('x'); found['home'] = os.environ['HOME']")
        assert made["home"]
        yield Pair(attacker, victim, places(cloud, voices, victim))
    finally:
        for puppet in puppets:
            puppet.destroy()


def _known(voices: Voices, name: str) -> bool:
    try:
        return voices.query(1, ListApps(compartment=name)) == []
    except EnjinError:
        return False


def places(cloud: Cloud, voices: Voices, victim: Puppet) -> list[str]:
    """Return the paths of the victim's and the daemons' things, as they are inside ring 1 and on the host."""
    state = cloud.home / "nodes" / voices.ring1 / "state"
    found = [path for path in state.rglob("*") if victim.secret in path.name]
    assert {path.name for path in found} == {victim.secret, f"{victim.secret}.txt"}, "the victim's files are there to be read"
    node = victim.node()["id"]
    found += [state / "hands" / f"{node}.sock", state / "init.sock", state / "bus" / "bus.sock", state / "bus" / "bus.sock.pub"]
    found += [state / "ring1" / "journal.db", state / "router" / "control.sock", *(state / "blobs").glob("[0-9a-f]*")]
    assert all(path.exists() for path in found)
    return [*(f"{INSIDE}/{path.relative_to(state)}" for path in found), *map(str, found)]


def test_n51_a_neighbours_files_cannot_be_read(pair: Pair) -> None:
    """N51: release, home, blob, journal and every socket of the other tenant and of ring 1 stay shut; one's own files do not."""
    found = pair.attacker.do(f"""
for path in {pair.places!r}:
    found[path] = attempt(lambda: os.close(os.open(path, os.O_RDONLY)))
    if not path.endswith((".sock", ".pub")):
        found["write " + path] = attempt(lambda: os.close(os.open(path, os.O_WRONLY)))
found["seen"] = [os.path.join(top, name) for top, folders, names in os.walk("/") if not top.startswith("/proc")
                 for name in folders + names if "{pair.victim.secret}" in name]
own = os.path.join(os.environ["HOME"], "mine")
found["own"] = attempt(lambda: open(own, "w").write("x"))
found["own release"] = attempt(lambda: open("{pair.attacker.secret}.txt").read())
""")
    assert found.pop("own") == "got 1"
    assert found.pop("own release") == f"got '{pair.attacker.secret}'"
    assert found.pop("seen") == []
    assert {path: said for path, said in found.items() if not said.startswith("denied")} == {}


def test_n51_a_neighbours_process_cannot_be_seen(pair: Pair) -> None:
    """N51: no process's environment, command line, memory, root or descriptors but one's own say anything; the canary is nowhere."""
    found = pair.attacker.do(f"""
found["canary"], found["opened"] = [], []
for pid in pids():
    mine = pid == str(os.getpid())
    for name in ("environ", "cmdline", "maps", "mem", "auxv"):
        try:
            with open("/proc/%s/%s" % (pid, name), "rb") as file:
                data = file.read(65536) if name != "mem" else b""
        except OSError:
            continue
        if b"{pair.victim.secret}" in data:
            found["canary"].append(pid + " " + name)
        if not mine and name in ("environ", "mem", "auxv") and os.stat("/proc/" + pid).st_uid != os.getuid():
            found["opened"].append(pid + " " + name)
    for name in ("root", "cwd", "fd"):
        if not mine and os.stat("/proc/" + pid).st_uid != os.getuid() and attempt(
                lambda: os.listdir("/proc/%s/%s" % (pid, name))).startswith("got"):
            found["opened"].append(pid + " " + name)
found["own"] = "{pair.attacker.secret}" == os.environ["CANARY"]
found["strangers"] = [pid for pid in pids() if os.stat("/proc/" + pid).st_uid != os.getuid()]
""")
    assert found.pop("strangers") == []
    assert found == {"canary": [], "opened": [], "own": True}


def test_n50_a_neighbour_cannot_be_signalled_or_traced(pair: Pair) -> None:
    """N50: no process of the other tenant, nor agent, init or daemon, takes a signal or a tracer; one's own child takes a signal."""
    victim = numbers(pair.victim.process().pid)
    keepers = [number for process in pair.attacker.cloud.find("ring2.daemon") for number in numbers(process.pid)]
    found = pair.attacker.do(f"""
own = [pid for pid in pids() if os.stat("/proc/" + pid).st_uid == os.getuid()]
mine = {{thread for pid in own for thread in threads(pid)}} | {{os.getppid()}}  # its own init, which has its uid
found["signal"] = [pid for pid in range(1, 50000) if pid not in mine and attempt(lambda: os.kill(pid, 0)).startswith("got")]
found["victim"] = [attempt(lambda: os.kill(pid, 9)) for pid in {victim!r} if pid not in mine]
found["traced"] = [pid for pid in {sorted({*victim, *keepers})!r} if pid not in mine and ptrace(pid) == "got"]
child = os.fork()
if child == 0:
    signal.pause()
found["own"] = attempt(lambda: os.kill(child, 9))
os.waitpid(child, 0)
""")
    assert found["signal"] == []
    assert all(said.startswith("denied") for said in found["victim"])
    assert found["traced"] == []
    assert found["own"] == "got None"
    assert pair.victim.do("found['alive'] = True") == {"alive": True}


def test_n55_a_neighbours_port_and_keepers_sockets_are_out_of_reach(pair: Pair) -> None:
    """N55 N58: neither the victim's port, nor its own agent's, its init's or ring 1's sockets; what it opens itself it reaches."""
    address = pair.victim.node()["address"]
    port = pair.victim.do("found['port'] = int(os.environ['PORT'])")["port"]
    sockets = [path for path in pair.places if path.endswith((".sock", ".pub"))]
    own = pair.attacker.node()["id"]
    sockets += [path.rpartition("/")[0] + f"/{own}.sock" for path in sockets if "/hands/" in path]
    found = pair.attacker.do(f"""
found["victim"] = reach(("{address}", {port}))
found["walk"] = sockets_found([])
for path in {sockets!r}:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as link:
            found[path] = attempt(lambda: link.connect(path))
found["own"] = own_server()
""")
    assert found.pop("own") == "connected"
    assert (found.pop("victim"), found.pop("walk")) == ("", {})
    assert {path: said for path, said in found.items() if not said.startswith("denied")} == {}


def test_the_app_has_no_rights(pair: Pair) -> None:
    """N50: NoNewPrivs, CapEff 0 and Seccomp 2 from /proc of the running app, as the host sees it; a uid of nobody, and no two alike."""
    pids = [puppet.process().pid for puppet in (pair.attacker, pair.victim)]
    for pid in pids:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert int(status["CapBnd"], 16) == 0
        assert uid(pid) >= 524_288
        assert len(set(status["Uid"].split())) == 1
    keepers = {uid(process.pid) for process in pair.attacker.cloud.find("ring2.daemon")}
    assert uid(pids[0]) != uid(pids[1])
    assert not {uid(pid) for pid in pids} & keepers


def test_n57_a_uid_is_not_given_out_again(cloud: Cloud, tmp_path: Path) -> None:
    """N57: instances of an app that is pushed after another was destroyed have uids that nobody has had."""
    seen: set[int] = set()
    for turn in range(3):
        puppet = Puppet(cloud, tmp_path / str(turn), "phoenix", "default", "jail", f"canary{secrets.token_hex(8)}")
        try:
            now = uid(puppet.process().pid)
        finally:
            puppet.destroy()
        assert now not in seen
        seen.add(now)
