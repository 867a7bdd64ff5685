"""`enjin doctor` and `enjin init`: what this machine can do, and the configuration with every key explained."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from enjin import config as configuration
from enjin.errors import ConfigError
from enjin.host import clock
from enjin.output import json_option, print_json, print_rows, say

FILES_MIN: Final = 4_096
PROGRAM_S: Final = 5.0
SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
YEAR_2025_US: Final = 1_735_689_600_000_000
VERSION: Final = re.compile(r"\d+(\.\d+)+")
PROGRAMS: Final = (
    # program, how it tells its version, oldest that is known to work, Debian package, needed by
    ("haproxy", "-v", (2, 6), "haproxy", "the router"),
    ("bwrap", "--version", (0, 8), "bubblewrap", "the jails of apps"),
    ("slirp4netns", "--version", (1, 2), "slirp4netns", "builds that install packages"),
    ("nft", "--version", (1, 0), "nftables", "what builds may reach"),
)


class ConfigThere(ConfigError):
    """A configuration file would be overwritten."""

    code = "E-CFG-103"
    remedy = "edit it; `enjin init --show` prints a fresh one"


class Finding(NamedTuple):
    """One thing that was looked at: whether it is ``ok``, ``weak`` (works with less) or ``missing``, and what to do."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def _finding(name: str, good: bool, detail: str, remedy: str, otherwise: str = "missing") -> Finding:
    return Finding(name, "ok" if good else otherwise, detail, "" if good else remedy)


def programs() -> list[Finding]:
    """Look for the programs that enjin runs, and ask each for its version."""
    found = []
    for program, option, oldest, package, use in PROGRAMS:
        path, remedy = shutil.which(program, path=SEARCH), f"apt-get install {package} (needed by {use})"
        text = _said(path, option) if path else ""
        version = VERSION.search(text)
        numbers = tuple(int(part) for part in version[0].split(".")) if version else ()
        detail = "not installed" if not path else version[0] if version else f"{path} does not tell its version"
        found.append(_finding(program, numbers[:2] >= oldest, detail, remedy))
    return found


def _said(path: str, option: str) -> str:
    try:
        done = subprocess.run(
            [path, option], capture_output=True, text=True, timeout=PROGRAM_S, stdin=subprocess.DEVNULL, check=False, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr


def strategies() -> list[Finding]:
    """Try each way of isolating nodes, for real."""
    from supervision.probe import probe_jail, probe_process, probe_user

    root = os.geteuid() == 0
    jail, user, process = probe_jail(root), probe_user(root), probe_process()
    bare = process.isolation == "no isolation"
    return [
        _finding("strategy jail", jail.works, jail.reason, "run enjin as root on a kernel with namespaces and control groups", "weak"),
        _finding("strategy user", user.works, user.reason, "run enjin as root on a kernel with landlock (5.13 or later)", "weak"),
        _finding("strategy process", not bare, process.reason, "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1", "weak"),
    ]


def kernel_features() -> list[Finding]:
    """Look at namespaces, control groups, system call filters, landlock and KVM."""
    from supervision import kernel, landlock
    from supervision.cgroups import Layout
    from supervision.probe import try_namespaces

    user = try_namespaces(kernel.NEWUSER)
    layout = Layout.probe()
    missing = sorted({"memory", "pids", "cpu"} - layout.controllers)
    groups = ", ".join(sorted(layout.controllers)) or "none that we may write"
    abi = landlock.abi()
    return [
        Finding("kernel", "ok", os.uname().release),
        _finding("user namespaces", not user, user or "work", "sysctl user.max_user_namespaces=15000", "weak"),
        _finding(
            "control groups",
            not missing,
            groups,
            f"mount a writable hierarchy with {', '.join(missing)}; without them nothing limits nodes",
            "weak",
        ),
        _finding(
            "system call filter",
            "seccomp" in _read("/proc/self/status").lower(),
            "seccomp",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
        _finding("landlock", abi > 0, f"ABI {abi}" if abi else "not there", "boot with lsm=landlock,… on kernel 5.13 or later", "weak"),
        _kvm(),
    ]


def _kvm() -> Finding:
    """Open /dev/kvm: that it is there does not say that it may be used. Whether a guest boots is not tried here."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why = f"/dev/kvm: {error.strerror}"
        return Finding("kvm", "weak", why, "enable virtualisation in the firmware or the outer machine; until then ring 1 runs in a jail")
    return Finding("kvm", "ok", "/dev/kvm can be opened; no guest was booted")


def limits() -> list[Finding]:
    """Look at file limits, the clock and the state directory's place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = clock().wall_us
    found = [
        _finding("file limit", hard >= FILES_MIN, f"{soft} soft, {hard} hard", f"raise the hard limit: ulimit -Hn {FILES_MIN}"),
        _finding("clock", now > YEAR_2025_US, f"{now // 1_000_000} s since 1970", "set it: timedatectl set-ntp true"),
        _finding("sqlite", _sqlite() >= (3, 37), ".".join(str(part) for part in _sqlite()), "use Debian 12's python3"),
    ]
    try:
        config = configuration.load({})
    except ConfigError as error:
        return [*found, Finding("configuration", "missing", error.message, error.hint)]
    place = config.path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return [
        *found,
        Finding("configuration", "ok", f"state in {config.home}"),
        _finding("room", free >= 2 << 30, f"{free / (1 << 30):.1f} GiB free at {place}", "free at least 2 GiB, or set ENJIN_HOME", "weak"),
    ]


def _sqlite() -> tuple[int, ...]:
    import sqlite3

    return sqlite3.sqlite_version_info


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


LOOKS: Final[tuple[Callable[[], list[Finding]], ...]] = (kernel_features, strategies, programs, limits)


@click.command("doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Look at what this machine can do, and say what to do about what it cannot; ends with 1 when something needed is missing.

    \b
    Examples:
      enjin doctor
      enjin doctor --json
    """
    findings = [finding for look in LOOKS for finding in look()]
    missing = [finding for finding in findings if finding.state == "missing"]
    if as_json:
        print_json({"schema": 1, "ok": not missing, "findings": [finding._asdict() for finding in findings]})
    else:
        print_rows(
            [finding._asdict() for finding in findings], {"name": "WHAT", "state": "STATE", "detail": "FOUND", "remedy": "WHAT TO DO"}
        )
        say("this machine can run a cloud" if not missing else f"missing: {', '.join(finding.name for finding in missing)}")
    if missing:
        click.get_current_context().exit(1)


# Key -> what it means; a test checks that every key of the configuration stands here.
MEANINGS: Final = {
    "home": "Where the cloud's state lies. A short path: sockets lie below it.",
    "port_base": "Ports on 127.0.0.1: ring 0's API here, ring 1's API one above, the router a thousand above.",
    "ring1": "How the ring 1 node is made: auto (the strongest that works), jail or process.",
    "keys": "Directory of operators' key files, one per cloud.",
    "bus": "What carries the bus: zmq.",
    "journal": "Where a new cloud's ring 0 journals: sqlite, or postgresql://host/database.",
}


def sample() -> str:
    """Return a configuration file that changes nothing: every key with its meaning and its default, as a comment."""
    config = configuration.defaults()
    lines = [
        "# Configuration of enjin. What stands here is overridden by ENJIN_<KEY> in the environment, and that by options.",
        "# Every key is shown with its default; remove the # before one to change it.",
    ]
    for key in configuration.Config.__struct_fields__:
        value: Any = getattr(config, key)
        lines += ["", f"# {MEANINGS[key]} Also ENJIN_{key.upper()}.", f"#{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return str(value) if isinstance(value, int) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@click.command("init")
@click.option("--show", is_flag=True, help="Print it instead of writing it.")
def init(show: bool) -> None:
    """Write a configuration file with every key, its meaning and its default; never over one that is there.

    \b
    Examples:
      enjin init --show
      enjin init
    """
    if show:
        click.echo(sample(), nl=False)
        return
    path = configuration.file_path()
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(sample())
    except FileExistsError as error:
        raise ConfigThere(f"there is a configuration at {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    click.echo(str(path))
