"""`enjin up`: observe what there is of a cloud, plan what is missing, apply it; changes nothing where nothing is missing.

Owns the order of raising a cloud on this machine, from prerequisites to the first answer of ring 1's API. Everything
that becomes true in the cloud becomes true by a signed command; this module only starts ring 0's init.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bus.directory import Directory, NoCloud, read_directory
from bus.journal.errors import JournalAway
from bus.journal.postgres import check_address
from bus.over_nats.link import require_client
from bus.over_nats.program import find_server
from bus.session import Session
from enjin.config import Config
from enjin.errors import ConfigError, EnjinError, Forbidden, Unreachable
from enjin.host import monotonic_s
from keys.shares import Ask
from ring0 import launch, uids
from ring0.foundation import FILE, Foundation, OtherCheckout, found, no_passphrase, read_foundation, write_foundation
from ring0.nodes import ListNodes, StartNode
from ring0.placing import PlaceNode
from ring0.registry import read_registry
from ring0.runtime import checkout, ensure_runtime

DEADLINE_S: Final = 60.0
PROGRAMS: Final = {"bwrap": "bubblewrap", "haproxy": "haproxy"}
JAIL_PROGRAMS: Final = {"slirp4netns": "slirp4netns", "nft": "nftables"}
SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MissingProgram(ConfigError):
    """A program that enjin needs is not installed."""

    code = "E-UP-003"
    exit_status = 1


class NeedsRoot(Forbidden):
    """Jails need privileges that this user does not have."""

    code = "E-UP-002"
    remedy = "run it as root, or use `--ring1 process`"


class NotUp(Unreachable):
    """The cloud did not come up in time."""

    code = "E-UP-005"
    remedy = "HOME/log/init.log and `enjin status` say how far it came"


class HalfRemoved(ConfigError):
    """The removal of a cloud was cut off."""

    code = "E-UP-008"
    remedy = "finish it: `enjin down --destroy`"


class Raised(NamedTuple):
    """What `enjin up` found or made."""

    foundation: Foundation
    changed: tuple[str, ...]
    endpoints: dict[str, str]


Tell = Callable[[str], None]


def raise_cloud(config: Config, tell: Tell, shares: Sequence[Path] = (), ask: Ask = no_passphrase) -> Raised:
    """Raise or mend the cloud at the configured state directory, and return when ring 1's API answers.

    A new cloud is founded with the root's *shares*, else with those in HOME/root, which are made when there are none.

    Raises:
        ConfigError: Shares are given, and the cloud was founded before.
        NeedsRoot, MissingProgram, PortTaken, OtherCheckout, HalfRemoved, NotUp, and what genesis and the runtime copy raise.
    """
    changed: list[str] = []
    foundation = read_foundation(config.path)
    running = foundation is not None and launch.init_runs(config.path)
    strategy = choose_strategy(config, foundation)
    if foundation is not None and shares:
        raise ConfigError(f"the cloud at {config.home} was founded before: its root is settled", hint="`enjin up` without --share mends it")
    if foundation is not None and not (config.path / "ring0" / "trust.json").exists():
        raise HalfRemoved(f"the cloud at {config.home} was being removed")
    if foundation is not None and foundation.checkout != str(checkout()):
        if running:
            raise OtherCheckout(f"the cloud at {config.home} was raised by {foundation.checkout}, and it runs")
        foundation = msgspec.structs.replace(foundation, checkout=str(checkout()))
        write_foundation(config.path, foundation)
    check_programs(strategy)
    check_bus(config, foundation)
    check_journal(config, foundation, running)
    if foundation is None:
        foundation = _found(config, strategy, shares, ask)
        changed.append("founded the cloud")
        where = "" if shares else f"; its root keys lie in {config.path / 'root'}: move them to three other places"
        tell(f"cloud {foundation.tag} founded{where}")
    if not running:
        runtime = ensure_runtime(config.path, foundation.bus, shared_journal=bool(foundation.journal))
        check_reach(foundation, runtime)
        _start(config, foundation, runtime)
        changed.append("started ring 0")
    endpoints = asyncio.run(_converge(config, foundation, strategy, changed, tell))
    return Raised(foundation, tuple(changed), endpoints)


def choose_strategy(config: Config, foundation: Foundation | None) -> str:
    """Return how the ring 1 node is made: as founded, as forced, or the strongest that works here.

    Raises:
        NeedsRoot: A jail was asked for without root.
        ConfigError: Another strategy than the cloud was founded with.
    """
    wanted = config.ring1
    if foundation is not None:
        if wanted not in ("auto", foundation.ring1):
            raise ConfigError(
                f"this cloud was founded with ring 1 as {foundation.ring1}, not {wanted}", hint="`enjin down --destroy` first"
            )
        if foundation.privileged and os.geteuid() != 0:
            raise NeedsRoot(f"the cloud at {config.home} belongs to root")
        return foundation.ring1
    if wanted == "jail" and os.geteuid() != 0:
        raise NeedsRoot("a jail for ring 1 needs root")
    if wanted != "auto":
        return wanted
    return "jail" if os.geteuid() == 0 and _jails_work() else "process"


def _jails_work() -> bool:
    """Whether namespaces can really be made here, tried with a deadline."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=5, stdin=subprocess.DEVNULL).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def check_programs(strategy: str) -> None:
    """Check that every program is there. Raises: MissingProgram."""
    needed = PROGRAMS | (JAIL_PROGRAMS if strategy == "jail" else {})
    if strategy == "process":
        needed = {"haproxy": "haproxy"}
    missing = sorted({package for program, package in needed.items() if shutil.which(program, path=SEARCH) is None})
    if missing:
        raise MissingProgram(
            f"missing on this machine: {', '.join(missing)}", hint=f"apt-get install {' '.join(missing)} (or run ./bootstrap)"
        )


def check_bus(config: Config, foundation: Foundation | None) -> None:
    """Check that the bus is the one that the cloud was founded with, and that what a new cloud's needs is installed.

    Raises:
        ConfigError: NATS is asked for where the cloud's bus is ZeroMQ.
        ServerRefused, NoNats: The bus is to be NATS, and there is no nats-server that may serve, or no client library.
    """
    if config.bus != "nats":
        return
    if foundation is not None and foundation.bus != "nats":
        raise ConfigError(f"the bus of this cloud is {foundation.bus}, not nats", hint="`enjin bus migrate nats` moves it while it runs")
    require_client()
    find_server()


def check_journal(config: Config, foundation: Foundation | None, running: bool) -> None:
    """Check that the journal lies where the cloud's does, and that what it needs is installed and answers, unless it runs already.

    Raises:
        ConfigError: Another place is asked for than the cloud's journal is in.
        UnsupportedDatabase: The address holds a password, and would stand in a file that everybody reads.
        UnsupportedDatabase, JournalAway: The server cannot serve, or does not answer.
    """
    wanted = "" if config.journal == "sqlite" else config.journal
    if foundation is not None:
        if wanted not in ("", foundation.journal):
            raise ConfigError("this cloud's journal lies elsewhere than asked for", hint="`enjin down`, then `enjin journal migrate URL`")
        wanted = foundation.journal
    if wanted and not running:
        check_address(wanted)


def check_reach(foundation: Foundation, runtime: Path) -> None:
    """Check that the uid of ring 0's daemon can use the journal's server, which root has reached. Raises: JournalAway."""
    if not foundation.journal:
        return
    uid = foundation.uid(0)
    owner: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if foundation.privileged else {}
    command = [str(runtime / "bin" / "python"), "-I", "-m", "bus.journal.reach", foundation.journal]
    asked = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "cwd": "/"}
    done = subprocess.run(command, check=False, timeout=DEADLINE_S, **asked, **owner)  # type: ignore[call-overload]
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        hint = "let that uid reach the socket and read the files that the address names, then `enjin up`"
        raise JournalAway(f"uid {uid}, which ring 0's daemon has, cannot use its journal: {said}", hint=hint)


def _found(config: Config, strategy: str, shares: Sequence[Path], ask: Ask) -> Foundation:
    privileged = strategy == "jail"
    trial = Foundation(
        cloud="0" * 64, node="", operator="", root="", privileged=privileged, ring1=strategy, port_base=config.port_base, first_uid=-1,
        checkout="", founded=0,
    )  # fmt: skip
    launch.check_ports(trial, config.path)
    first = uids.reserve(config.home) if privileged else os.geteuid()
    return found(config, privileged=privileged, ring1=strategy, first_uid=first, checkout=str(checkout()), shares=shares, ask=ask)


def _start(config: Config, foundation: Foundation, runtime: Path) -> None:
    launch.check_ports(foundation, config.path)
    registry = read_registry()
    settings = launch.hands_settings(foundation, config.path, runtime, registry, own_addresses())
    specification = launch.init_specification(foundation, config.path, runtime, settings)
    launch.write_build_settings(config.path, runtime, registry, own_addresses(), foundation.uid(0))
    launch.start_init(config.path, runtime, foundation, specification)


def own_addresses() -> tuple[str, ...]:
    """Return every address of this host but loopback's: what nothing inside a jail may reach."""
    try:
        done = subprocess.run(["ip", "-j", "address"], capture_output=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
        links: list[dict[str, Any]] = msgspec.json.decode(done.stdout)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return ()
    found = {address.get("local", "") for link in links if link.get("ifname") != "lo" for address in link.get("addr_info", [])}
    return tuple(sorted(address for address in found if address))


async def _converge(config: Config, foundation: Foundation, strategy: str, changed: list[str], tell: Tell) -> dict[str, str]:
    deadline = monotonic_s() + DEADLINE_S
    directory = await _until(lambda: _fresh_directory(config, 0), deadline, "ring 0 does not answer")
    async with await Session.open(config, directory) as session:
        nodes = await session.query(0, ListNodes())
        ring1 = [node for node in nodes if node["ring"] == 1 and node.get("wanted") != "gone"]
        if not ring1:
            await session.command(0, PlaceNode(label="ring1", strategy="jail" if strategy == "jail" else "process"), reason="enjin up")
            changed.append("placed the ring 1 node")
        for node in ring1:
            if node.get("wanted") == "stopped":
                await session.command(0, StartNode(node=node["id"]), reason="enjin up")
                changed.append(f"started node {node['label']}")
    directory = await _until(lambda: _fresh_directory(config, 1), deadline, "ring 1 does not answer")
    return dict(directory.endpoints)


async def _fresh_directory(config: Config, ring: int) -> Directory:
    """Return the directory once *ring*'s decider answers over the bus."""
    directory = read_directory(config.path)
    reach = directory.reach(ring)
    async with await Session.open(config, directory) as session:
        await session.head(ring, timeout_s=1.0)
    if not reach.api:
        raise NoCloud("no API yet")
    return directory


async def _until(attempt: Callable[[], Any], deadline: float, what: str) -> Directory:
    last: EnjinError | None = None
    while monotonic_s() < deadline:
        try:
            found: Directory = await attempt()
            return found
        except EnjinError as error:
            last = error
            await asyncio.sleep(0.02)
    raise NotUp(f"{what} after {DEADLINE_S:g} s ({last})") from last


__all__ = ["FILE", "Raised", "raise_cloud"]
