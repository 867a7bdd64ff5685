"""Configuration: defaults < file < ``ENJIN_*`` < flags, into one frozen ``Config`` of which every key is documented.

The file is TOML: /etc/enjin/enjin.toml for root, else $XDG_CONFIG_HOME/enjin/enjin.toml; ``[section] key`` is
``ENJIN_<SECTION>_<KEY>`` in the environment, and ``home`` and ``port_base`` stand at the top as ``ENJIN_HOME`` and
``ENJIN_PORT_BASE``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from enjin.errors import ConfigError
from enjin.host import read_bounded

SOCKET_PATH_MAX: Final = 107
LONGEST_SOCKET: Final = "nodes/n-0123456789abcdef/state/run/agents/n-0123456789abcdef.sock"
FILE_MAX: Final = 65_536


class BadConfig(ConfigError):
    """The configuration holds an unknown key or an impossible value."""

    code = "E-CFG-101"
    remedy = "`enjin init --show` prints every key with its default"


class HomeTooLong(ConfigError):
    """The state directory's path leaves no room for socket paths."""

    code = "E-CFG-102"
    remedy = "set ENJIN_HOME to a shorter path"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every key of the configuration.

    home: State directory. port_base: 127.0.0.1 ports follow from it: ring 0 API at +0, ring 1 API at +1, router at +1000.
    ring1: How the ring 1 node is made: "auto" (strongest that works), "jail" or "process".
    keys: Directory of operators' keys. bus: "zmq", or "nats" (`./bootstrap setup --nats` installs what it needs).
    journal: Where a new cloud's ring 0 journals: "sqlite", or `postgresql://host/database` (`./bootstrap setup --postgres`).
    """

    home: str
    port_base: int = 7080
    ring1: str = "auto"
    keys: str
    bus: str = "zmq"
    journal: str = "sqlite"

    @property
    def api_ports(self) -> tuple[int, int]:
        """Ports of the APIs of ring 0 and ring 1."""
        return self.port_base, self.port_base + 1

    @property
    def router_port(self) -> int:
        """Port of the router."""
        return self.port_base + 1000

    @property
    def path(self) -> Path:
        """The state directory."""
        return Path(self.home)


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration.

    Raises:
        BadConfig: An unknown key, a value of the wrong type, or out of range.
        HomeTooLong: Socket paths beneath ``home`` would pass 107 bytes.
    """
    variables = os.environ if environment is None else environment
    configuration = _configuration_directory(variables)
    values: dict[str, Any] = {"home": _default_home(variables), "keys": str(_user_configuration(variables) / "keys")}
    values |= _from_file(configuration / "enjin.toml")
    for key in Config.__struct_fields__:
        if (text := variables.get(f"ENJIN_{key.upper()}")) is not None and text:
            values[key] = text
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    try:
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        raise BadConfig(f"the configuration is wrong: {error}") from error
    if config.ring1 not in ("auto", "jail", "process"):
        raise BadConfig(f"ring1 is {config.ring1!r}, not auto, jail or process")
    if not 1024 <= config.port_base <= 60_000:
        raise BadConfig(f"port_base {config.port_base} is not within 1024 to 60000")
    if config.bus not in ("zmq", "nats"):
        raise BadConfig(f"bus is {config.bus!r}, not zmq or nats")
    if config.journal != "sqlite" and not config.journal.startswith(("postgresql://", "postgres://")):
        raise BadConfig("journal is neither sqlite nor postgresql://host/database")
    home = os.path.abspath(config.home)
    if len(f"{home}/{LONGEST_SOCKET}".encode()) > SOCKET_PATH_MAX:
        raise HomeTooLong(f"the state directory {home} is too long a path for sockets beneath it")
    return msgspec.structs.replace(config, home=home)


def defaults(environment: Mapping[str, str] | None = None) -> Config:
    """Return what holds where neither file nor environment nor options say otherwise."""
    variables = os.environ if environment is None else environment
    return Config(home=_default_home(variables), keys=str(_user_configuration(variables) / "keys"))


def _default_home(variables: Mapping[str, str]) -> str:
    if os.geteuid() == 0:
        return "/var/lib/enjin"
    state = variables.get("XDG_STATE_HOME") or os.path.join(variables.get("HOME", "/"), ".local", "state")
    return os.path.join(state, "enjin")


def _user_configuration(variables: Mapping[str, str]) -> Path:
    return Path(variables.get("XDG_CONFIG_HOME") or os.path.join(variables.get("HOME", "/root"), ".config")) / "enjin"


def _configuration_directory(variables: Mapping[str, str]) -> Path:
    return Path("/etc/enjin") if os.geteuid() == 0 else _user_configuration(variables)


def file_path(environment: Mapping[str, str] | None = None) -> Path:
    """Return where the configuration file is looked for."""
    return _configuration_directory(os.environ if environment is None else environment) / "enjin.toml"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(path, FILE_MAX).decode())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}") from error
