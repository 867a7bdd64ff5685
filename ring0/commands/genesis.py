"""`enjin genesis`: the ceremony that makes a root in three shares, before there is a cloud; and how shares are given to other commands."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enjin import config as configuration
from enjin.errors import ConfigError
from enjin.host import read_bounded
from enjin.output import json_option, print_json, rfc3339, say

if TYPE_CHECKING:
    from keys.shares import Ask, Share

SHARES: Final = 3
PASSPHRASE_BYTES_MAX: Final = 4_096


class BadPassphraseFile(ConfigError):
    """A file that should hold a passphrase cannot be used."""

    code = "E-SHA-006"
    remedy = "one line, in a file that `chmod 600` made yours alone"


def share_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--share`` and ``--passphrase-file`` to a command that uses the root."""
    path = click.Path(path_type=Path)
    function = click.option(
        "--passphrase-file", "passphrase_files", multiple=True, type=path, help="Holds the passphrase of a share (default: asked for)."
    )(function)
    return click.option("--share", "shares", multiple=True, type=path, help="A root share; give two.")(function)


def closing_options(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--NAME`` and ``--NAME-file`` to a command that makes shares: with which passphrases they are closed."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        path = click.Path(path_type=Path)
        function = click.option(f"--{name}-file", "files", multiple=True, type=path, help="From files: one for all, or three.")(function)
        return click.option(f"--{name}", "passphrase", is_flag=True, help="Close each share with a passphrase; asked for.")(function)

    return add


def place_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--to`` to a command that makes shares."""
    path = click.Path(path_type=Path, file_okay=False)
    return click.option("--to", "places", multiple=True, type=path, help="Where they go: one directory, or three.")(function)


def asking(files: tuple[Path, ...]) -> Ask:
    """Return what finds the passphrase of a share: one file serves all, several are taken in turn; else the terminal is asked.

    Raises (when it is called):
        WrongPassphrase: Nobody can be asked.
        BadPassphraseFile.
    """
    from ring0.foundation import no_passphrase

    left: Iterator[Path] = itertools.repeat(files[0]) if len(files) == 1 else iter(files)

    def ask(share: Share) -> bytes:
        for path in left:
            return read_passphrase(path)
        if not sys.stdin.isatty():
            return no_passphrase(share)
        return str(click.prompt(f"Passphrase of root share {share.number}", hide_input=True, err=True)).encode()

    return ask


def read_passphrase(path: Path) -> bytes:
    """Return the line in *path*. Raises: BadPassphraseFile."""
    try:
        if path.stat().st_mode & 0o077:
            raise BadPassphraseFile(f"passphrase file {path} is open to other users")
        line = read_bounded(path, PASSPHRASE_BYTES_MAX).rstrip(b"\r\n")
    except OSError as error:
        raise BadPassphraseFile(f"cannot read passphrase file {path}: {error.strerror}") from error
    if not line or b"\n" in line:
        raise BadPassphraseFile(f"passphrase file {path} does not hold one line")
    return line


def new_passphrases(wanted: bool, files: tuple[Path, ...]) -> list[bytes]:
    """Return a passphrase per new share; none when none is wanted. Raises: BadPassphraseFile."""
    if len(files) not in (0, 1, SHARES):
        raise click.UsageError("give a passphrase file once for all shares, or three times")
    if files:
        return [read_passphrase(path) for path in files] * (SHARES if len(files) == 1 else 1)
    if not wanted:
        return []
    prompts = [f"Passphrase for root share {number}" for number in range(1, SHARES + 1)]
    return [str(click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)).encode() for prompt in prompts]


@click.command("genesis")
@place_option
@closing_options("passphrase")
@json_option
def genesis(places: tuple[Path, ...], passphrase: bool, files: tuple[Path, ...], as_json: bool) -> None:
    """Make the root of a new cloud in three shares, of which any two can sign; no cloud is needed, nor a network.

    \b
    Examples:
      enjin genesis --to /media/a --to /media/b --to /media/c --passphrase
      enjin up --share /media/a/share-1.key --share /media/c/share-3.key
      enjin genesis                   # into ENJIN_HOME/root, where `enjin up` looks for them
    """
    from enjin.canonical import from_text
    from keys.frame import open_frame
    from keys.root import cloud_id, read_root
    from ring0.foundation import new_shares

    if len(places) not in (0, 1, SHARES) or len(set(places)) != len(places):
        raise click.UsageError("give --to once, or three times with different directories")
    write = _writer(places)
    shares = new_shares(new_passphrases(passphrase, files))
    paths = write(shares)
    frame = open_frame(from_text(shares[0].root))
    cloud, statement = str(cloud_id(frame)), read_root(frame)
    if as_json:
        print_json({"cloud": cloud, "shares": [str(path) for path in paths], "expires": rfc3339(statement.expiry)})
        return
    for path in paths:
        click.echo(str(path))
    say(f"root of cloud {cloud[:6]}: any {statement.threshold} of these {len(paths)} shares sign, until {rfc3339(statement.expiry)}")
    say("keep each in a place of its own: two in one hand are the cloud, and with two lost it cannot be changed any more")


def _writer(places: tuple[Path, ...]) -> Callable[[list[Share]], list[Path]]:
    """Return what writes the shares where they are wanted. Raises: ConfigError: HOME/root is meant, and the cloud there has its root."""
    from keys.shares import write_shares, write_together
    from ring0.foundation import read_foundation

    if places:
        return lambda shares: write_shares(places, shares)
    config = configuration.load({})
    if read_foundation(config.path) is not None:
        raise ConfigError(f"the cloud at {config.home} has its root", hint="say where else with --to")
    return lambda shares: write_together(config.path / "root", shares)
