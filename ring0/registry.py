"""This machine's own package registry settings, so that builds in jails install from where the machine does.

Owns reading them (pip's configuration in every place that pip looks, proxies, certificate files) and which directories
and files of the host they refer to. Writes no registry's address anywhere: what it finds goes into a build's environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

PASSED: Final = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
LEFT_OUT: Final = frozenset(
    {"cache-dir", "user", "require-virtualenv", "prefix", "target", "root", "log", "python", "no-cache-dir", "config-file"}
)
# What a jail has anyway, and what it has of its own: a directory there is never shown, a file only where nothing hides it.
BELONGS_TO_JAILS: Final = ("/usr", "/etc", "/bin", "/lib", "/sbin", "/proc", "/dev", "/sys", "/tmp", "/run")
HIDES_FILES: Final = ("/usr/", "/etc/ssl/certs/", "/bin/", "/lib/", "/sbin/", "/proc/", "/dev/", "/sys/", "/tmp/", "/run/", "/var/tmp/")


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """Environment of a build, and the directories and files of the host that it needs, read-only."""

    environment: dict[str, str] = {}
    paths: tuple[str, ...] = ()


def read_registry(variables: Mapping[str, str] | None = None) -> Registry:
    """Return this machine's settings; what cannot be read is left out."""
    known = os.environ if variables is None else variables
    environment = {name: known[name] for name in PASSED if known.get(name)}
    for key, value in _pip_settings().items():
        name = key.rpartition(".")[2]
        if name not in LEFT_OUT:
            environment.setdefault(f"PIP_{name.upper().replace('-', '_')}", value)
    return Registry(environment=environment, paths=_paths(environment.values()))


def _pip_settings() -> dict[str, str]:
    """Return ``section.name -> value`` as pip itself reads it; the environment wins, then user, then global."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return {}
    settings: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, separator, value = line.partition("=")
        if separator and len(value) >= 2 and value[0] == value[-1] == "'":
            settings[key] = value[1:-1].replace("\\n", "\n")
    ranked = sorted(settings, key=lambda key: (not key.startswith(":env:"), not key.startswith("user."), key))
    return {key.removeprefix(":env:"): settings[key] for key in ranked}


def _paths(values: Iterable[str]) -> tuple[str, ...]:
    """Return what *values* name on this machine's disk: directories of packages, constraints, certificates."""
    found = set()
    for value in values:
        for word in value.split():
            path = word.removeprefix("file://")
            if not path.startswith("/") or path == "/":
                continue
            if os.path.isdir(path) and not path.startswith(BELONGS_TO_JAILS):
                found.add(_mount_point(os.path.realpath(path)))
            elif os.path.isfile(path) and not path.startswith(HIDES_FILES):
                found.add(path)
    return tuple(sorted(found))


def _mount_point(path: str) -> str:
    """Return the first two parts of *path* when it lies deeper: an index in a directory refers to files beside it."""
    return "/".join(path.split("/")[:3])
