"""The runtime copy: enjin and what it needs, under the state directory, readable by every uid and inside every jail.

The checkout may lie where other users cannot read (or move away while a cloud runs), so daemons never run from it. A
copy is named by its content and made beside the old ones; it is complete or absent.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import re
import shutil
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from bus.over_nats.program import PROGRAM, find_server
from enjin.errors import ConfigError
from enjin.failpoints import failpoint
from enjin.host import random_bytes

OURS: Final = ("enjin", "keys", "bus", "compartments", "supervision", "ring0", "ring1", "ring2")
BESIDE: Final = ("pip",)
NATS: Final = ("cryptography", "nats-py")
POSTGRES: Final = ("psycopg", "psycopg-binary")
SYSTEM_PYTHON: Final = "/usr/bin/python3"


class NoDistribution(ConfigError):
    """enjin or something that it needs is not installed here."""

    code = "E-RUN-001"
    remedy = "run `./bootstrap`, which installs everything"


def checkout() -> Path:
    """Return the directory that this enjin runs from."""
    return Path(__file__).resolve().parent.parent


def ensure_runtime(home: Path, bus: str = "zmq", *, shared_journal: bool = False) -> Path:
    """Make the runtime copy of this enjin at ``home/runtime/<digest>`` unless it is there, and return its path.

    Raises:
        NoDistribution: A dependency is not installed.
        ServerRefused: The bus is NATS, and there is no nats-server that may serve.
    """
    server = find_server() if bus == "nats" else None
    needed = _distributions((*(NATS if server is not None else ()), *(POSTGRES if shared_journal else ())))
    target = home / "runtime" / _digest(needed, server)
    if target.exists():
        return target
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{random_bytes(4).hex()}")
    previous = os.umask(0o022)
    try:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(fresh)
        _link_system_python(fresh)
        packages = fresh / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        for name in OURS:
            shutil.copytree(checkout() / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
        for one in needed:
            _copy_distribution(one, packages)
        if server is not None:
            shutil.copy(server, fresh / "bin" / PROGRAM)
        compileall.compile_dir(packages, quiet=2, workers=1)
        _open_to_all(fresh)
        failpoint("runtime.rename")
        os.rename(fresh, target)
    finally:
        os.umask(previous)
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def extend_runtime(target: Path, bus: str) -> None:
    """Add to the runtime copy *target*, which is in use, what *bus* needs beside what is there; changes nothing that is there.

    Raises:
        NoDistribution: A dependency is not installed.
        ServerRefused: The bus is NATS, and there is no nats-server that may serve.
    """
    if bus != "nats":
        return
    server = find_server()
    packages = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    previous = os.umask(0o022)
    try:
        for one in _distributions(NATS):
            if not any((packages / file).exists() for file in one.files or () if file.name == "METADATA"):
                _copy_distribution(one, packages)
        if not (program := target / "bin" / PROGRAM).exists():
            fresh = program.with_name(f".{PROGRAM}.{random_bytes(4).hex()}")
            shutil.copy(server, fresh)
            failpoint("runtime.server.rename")
            os.rename(fresh, program)
        _open_to_all(target)
    finally:
        os.umask(previous)


def _link_system_python(environment: Path) -> None:
    """Point the interpreter at the system's: the one on PATH may live where other uids cannot go."""
    for name in ("python", "python3"):
        link = environment / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(SYSTEM_PYTHON)


def _distributions(more: tuple[str, ...]) -> list[Distribution]:
    """Return what enjin and *more* need, all the way down: the environment was installed by its markers, so what one excludes is absent."""
    found: dict[str, Distribution] = {}
    pending = [("enjin", False), *((name, False) for name in (*BESIDE, *more))]
    while pending:
        name, conditional = pending.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in found:
            continue
        try:
            one = distribution(name)
        except PackageNotFoundError as error:
            if conditional:
                continue
            raise NoDistribution(f"the Python package {name} is not installed in this environment") from error
        found[name] = one
        for requirement in one.requires or ():
            if "extra ==" not in requirement:
                pending.append((re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0], ";" in requirement))
    del found["enjin"]
    return [found[name] for name in sorted(found)]


def _digest(needed: list[Distribution], server: Path | None) -> str:
    summary = hashlib.sha256()
    if server is not None:
        status = server.stat()
        summary.update(f"{server} {status.st_size} {status.st_mtime_ns}\n".encode())
    for one in needed:
        summary.update(f"{one.metadata['Name']}=={one.version}\n".encode())
    for name in OURS:
        for path in sorted((checkout() / name).rglob("*.py")):
            summary.update(str(path.relative_to(checkout())).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return summary.hexdigest()[:16]


def _copy_distribution(one: Distribution, packages: Path) -> None:
    for file in one.files or ():
        if file.parts[0] == ".." or "__pycache__" in file.parts:
            continue
        source, target = Path(str(one.locate_file(file))), packages / file
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            shutil.copymode(source, target)


def _open_to_all(tree: Path) -> None:
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode | 0o444 | (0o111 if os.path.isdir(path) else 0))
    os.chmod(tree, 0o755)
