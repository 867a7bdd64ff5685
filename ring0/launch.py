"""Ring 0's init on the host: what it is told, how it is started, and whether it runs.

Owns the specification of ring 0's own processes. On a machine whose PID 1 is systemd, init is the main process of a
unit; elsewhere it is started detached, in a session of its own, and is the minimal parent that restarts the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from enjin.errors import ConfigError, StepFailed
from enjin.failpoints import failpoint, inherited
from enjin.host import write_atomic
from ring0.foundation import Foundation
from ring0.registry import Registry
from supervision.init.heirs import inherit

INIT_SOCKET: Final = "init/init.sock"
DAEMON_SOCKET: Final = "init/ring0.sock"
INIT_LOG: Final = "log/init.log"
SPEC: Final = "init/init.json"
HANDS_SETTINGS: Final = "init/hands.json"
BUILD_SETTINGS: Final = "init/build.json"
HEIRS: Final = "hands"
HANDS: Final = "hands"
LISTENERS: Final = ("router", "api0", "api1")
UNITS: Final = Path("/etc/systemd/system")


class PortTaken(ConfigError):
    """Another program listens on a port that the cloud needs."""

    code = "E-UP-001"
    remedy = "stop that program, or set ENJIN_PORT_BASE to another number"
    exit_status = 1


class InitFailed(StepFailed):
    """Ring 0's init could not be started."""

    code = "E-UP-006"
    remedy = "HOME/log/init.log says why"


def ports(foundation: Foundation) -> dict[str, int]:
    """Return every listener of the cloud on 127.0.0.1 and its port."""
    base = foundation.port_base
    return {"router": base + 1000, "api0": base, "api1": base + 1}


def check_ports(foundation: Foundation, home: Path) -> None:
    """Check that nobody listens where the cloud will, but a node of its own that still runs. Raises: PortTaken."""
    for name, port in ports(foundation).items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
                trial.listen(1)
            except OSError as error:
                held = inherit(str(home / HEIRS), name, "127.0.0.1", port)
                if held is not None:
                    os.close(held)
                    continue
                raise PortTaken(f"port {port} ({name}) on 127.0.0.1 is taken: {error.strerror}") from error


def hands_settings(foundation: Foundation, home: Path, runtime: Path, registry: Registry, own_addresses: tuple[str, ...]) -> dict[str, Any]:
    """Return the configuration of ring 0's hands."""
    first = foundation.first_uid
    return {
        "tag": foundation.tag,
        "home": str(home),
        "runtime": str(runtime),
        "roots": {"nodes": str(home / "nodes")},
        "privileged": foundation.privileged,
        "uids": [[first, first + 8 * 65_536 - 1]] if foundation.privileged else [],
        "host_paths": list(registry.paths),
        "init": str(home / INIT_SOCKET),
        "closed": list(own_addresses),
    }


def init_specification(foundation: Foundation, home: Path, runtime: Path, hands: dict[str, Any]) -> dict[str, Any]:
    """Return what ring 0's init is told: its listeners, its controls, and the two services that it restarts."""
    daemon = foundation.uid(0)
    python = str(runtime / "bin" / "python")
    environment = {"ENJIN_HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **inherited()}
    write_atomic(home / HANDS_SETTINGS, json.dumps(hands).encode(), 0o600)
    return {
        "name": f"enjin-{foundation.tag}",
        "subreaper": True,
        "controls": [
            {"path": str(home / INIT_SOCKET), "mode": 0o600, "owner": os.geteuid(), "role": "supervisor"},
            {"path": str(home / DAEMON_SOCKET), "mode": 0o600, "owner": daemon, "role": "daemon", "uids": [[daemon, daemon]]},
        ],
        "listeners": [{"name": name, "address": "127.0.0.1", "port": port} for name, port in ports(foundation).items()],
        "heirs": str(home / HEIRS),
        "channels": [HANDS],
        "services": [
            {
                "name": "hands", "generation": 1, "restart": "always", "log": True, "env": environment, "fds": {"3": f"channel:{HANDS}:0"},
                "argv": [python, "-I", "-m", "supervision.hands", "--channel", "3", "--config", str(home / HANDS_SETTINGS)],
            },
            {
                "name": "daemon", "generation": 1, "restart": "always", "log": True, "env": environment, "uid": daemon, "gid": daemon,
                "no_new_privs": True,
                "fds": {"3": f"channel:{HANDS}:1"}, "argv": [python, "-I", "-m", "ring0.daemon", "--home", str(home)],
            },
        ],
    }  # fmt: skip


def start_init(home: Path, runtime: Path, foundation: Foundation, specification: dict[str, Any]) -> None:
    """Start ring 0's init detached from this process.

    Raises:
        InitFailed: It ended at once.
    """
    write_atomic(home / SPEC, json.dumps(specification).encode(), 0o600)
    program = _init_program(runtime)
    if systemd_runs():
        _start_unit(home, foundation, program)
        return
    with open(home / INIT_LOG, "ab") as output, open(home / SPEC, "rb") as spec:
        failpoint("init.spawn")
        child = subprocess.Popen(
            [str(runtime / "bin" / "python"), "-I", "-S", program, "--spec", "0"],
            stdin=spec, stdout=output, stderr=output, start_new_session=True, cwd="/",
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = child.wait(timeout=0.15)
            raise InitFailed(f"ring 0's init ended at once with status {status}")


def _init_program(runtime: Path) -> str:
    found = sorted(runtime.glob("lib/python3.*/site-packages/supervision/init/__main__.py"))
    if not found:
        raise InitFailed(f"the runtime copy {runtime} holds no init")
    return str(found[0])


def init_runs(home: Path) -> bool:
    """Whether ring 0's init answers at its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trial:
        try:
            trial.connect(str(home / INIT_SOCKET))
        except OSError:
            return False
    return True


def systemd_runs() -> bool:
    """Whether PID 1 is systemd, as sd_booted(3) tells, and we may give it units."""
    return os.geteuid() == 0 and os.path.isdir("/run/systemd/system")


def unit_name(foundation: Foundation) -> str:
    """Return the name of the cloud's unit."""
    return f"enjin-{foundation.tag}.service"


def _start_unit(home: Path, foundation: Foundation, program: str) -> None:
    template = Path(__file__).resolve().parent.parent / "systemd" / "enjin.service"
    text = template.read_text().replace("@HOME@", str(home)).replace("@PYTHON@", str(Path(program).parents[5] / "bin" / "python"))
    write_atomic(UNITS / unit_name(foundation), text.replace("@PROGRAM@", program).encode(), 0o644)
    for words in (["daemon-reload"], ["start", unit_name(foundation)]):
        failpoint("unit.spawn")
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise InitFailed(f"systemctl {words[0]} failed: {done.stderr.strip()[:200]}")


def write_build_settings(home: Path, runtime: Path, registry: Registry, own_addresses: tuple[str, ...], owner: int) -> None:
    """Leave for ring 0's daemon what ring 1's builds need to know of this machine."""
    settings = {
        "runtime": str(runtime),
        "environment": registry.environment,
        "paths": list(registry.paths),
        "closed": list(own_addresses),
    }
    write_atomic(home / BUILD_SETTINGS, json.dumps(settings).encode(), 0o600, owner if os.geteuid() == 0 else None)


def read_build_settings(home: Path) -> dict[str, Any]:
    """Return what ``write_build_settings`` left. Raises: ConfigError."""
    try:
        found: dict[str, Any] = msgspec.json.decode((home / BUILD_SETTINGS).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read {home / BUILD_SETTINGS}: {error}") from error
    return found


def read_hands_settings(home: Path) -> dict[str, Any]:
    """Return the configuration that hands was last given."""
    found: dict[str, Any] = msgspec.json.decode((home / HANDS_SETTINGS).read_bytes())
    return found


def forget_unit(foundation: Foundation) -> None:
    """Stop and remove the cloud's systemd unit, where there is one."""
    if not systemd_runs() or not (UNITS / unit_name(foundation)).exists():
        return
    failpoint("unit.stop.spawn")
    subprocess.run(["systemctl", "stop", unit_name(foundation)], capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    (UNITS / unit_name(foundation)).unlink()
    failpoint("unit.reload.spawn")
    subprocess.run(["systemctl", "daemon-reload"], capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def leftovers(foundation: Foundation) -> list[str]:
    """Return what of the cloud is still on this host, by its names: namespaces, links, control groups."""
    tag = foundation.tag
    found = [f"network namespace {path.name}" for path in Path("/run/netns").glob(f"enjin-{tag}*")]
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob(f"enj{tag}*")]
    found += [f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"*/enjin-{tag}*")]
    found += [f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"enjin-{tag}*")]
    return found
