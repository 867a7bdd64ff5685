"""Another user of this machine who uses enjin: a uid without a name, a checkout that this uid can read, its own folders.

Owns the copy of the checkout and of its environment (hard links where the files are readable anyway) and how a command is run as that
uid, also where no user namespace can be made. When the tests themselves run without privileges, that user is the one who runs them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.cloud import COMMAND_S_MAX, ENJIN, ROOT, Cloud, CommandFailed, process_table
from tests.places import free_port_base, temporary_home

UIDS = range(1_800_000_000, 1_800_100_000)
PARTS = ("enjin", "keys", "bus", "compartments", "supervision", "ring0", "ring1", "ring2", "examples", "systemd")
LEFT_OUT = ("mypy", "mypyc", "ruff", "hypothesis", "peers", "__editable__.enjin-*")
WITHOUT_NAMESPACES = Path(__file__).with_name("without_namespaces.py")


class User(NamedTuple):
    """A user: the uid, and the `enjin` command that it can run."""

    uid: int
    enjin: Path
    checkout: Path

    def processes(self) -> list[int]:
        """Return the living processes of this uid."""
        found = []
        for pid in process_table():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}").st_uid == self.uid:
                    found.append(pid)
        return found


class UsersCloud(Cloud):
    """A cloud of that user, driven as that user.

    Args:
        bare: Nobody in it can make a user namespace.
    """

    def __init__(self, folder: Path, port_base: int, user: User, bare: bool = False) -> None:
        super().__init__(folder, port_base)
        self.user, self._bare = user, bare
        self.environment |= {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp"}
        os.chown(folder, user.uid, user.uid)

    def run(
        self, *words: str, check: bool = True, cwd: Path | None = None, seconds: float = COMMAND_S_MAX
    ) -> subprocess.CompletedProcess[str]:
        """Run `enjin` as the user. Raises: CommandFailed."""
        line = [str(self.user.enjin), *words]
        identity = {"user": self.user.uid, "group": self.user.uid, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._bare:
            line, identity = [sys.executable, "-I", str(WITHOUT_NAMESPACES), str(self.user.uid), *line], {}
        done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
            line, env=self.environment, cwd=cwd or self.user.checkout, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, check=False, **identity,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise CommandFailed(f"enjin {' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done


@contextlib.contextmanager
def other_user() -> Iterator[User]:
    """Make a user with a checkout, and remove the checkout afterwards."""
    if os.geteuid() != 0:
        yield User(os.geteuid(), ENJIN, ROOT)
        return
    uid = UIDS[secrets.randbelow(len(UIDS))]
    with temporary_home() as folder:
        checkout = folder / "checkout"
        checkout.mkdir(mode=0o755)
        for part in PARTS:
            _copy(ROOT / part, checkout / part)
        yield User(uid, _environment(checkout), checkout)


@contextlib.contextmanager
def users_cloud(user: User, bare: bool = False) -> Iterator[UsersCloud]:
    """Raise a cloud of *user*, and remove it afterwards with everything that still runs."""
    with temporary_home() as folder:
        made = UsersCloud(folder, free_port_base(), user, bare)
        try:
            made.up()
            yield made
        finally:
            if made.home.exists():
                made.down()


def _environment(checkout: Path) -> Path:
    """Make the copy of our environment and return its `enjin`."""
    place = checkout / ".venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", place], check=True, stdin=subprocess.DEVNULL)
    packages = next((Path(sys.prefix) / "lib").glob("python3*/site-packages"))
    copy = place / packages.relative_to(sys.prefix)
    copy.rmdir()
    _copy(packages, copy)
    (copy / "checkout.pth").write_text(f"{checkout}\n", encoding="utf-8")
    command = place / "bin" / "enjin"
    command.write_text(f"#!{place}/bin/python\nfrom enjin.cli import main\nraise SystemExit(main())\n", encoding="utf-8")
    for path in (command, copy / "checkout.pth"):
        path.chmod(0o755)
    return command


def _copy(source: Path, target: Path) -> None:
    """Copy a tree so that everybody can read it."""
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT), copy_function=_link)
    for folder, _names, _files in os.walk(target):
        os.chmod(folder, 0o755)


def _link(source: str, target: str) -> None:
    status = os.lstat(source)
    if status.st_mode & stat.S_IROTH:
        with contextlib.suppress(OSError):
            os.link(source, target, follow_symlinks=False)
            return
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if status.st_mode & stat.S_IXUSR else 0o644)
