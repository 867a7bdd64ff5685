"""`enjin config` and `enjin logs`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from enjin.errors import Invalid
from enjin.output import at_option, json_option, print_json, print_rows, reason_option, rfc3339, say
from ring1.commands.apps import app_name, app_named, app_option, change

INPUT_MAX: Final = 65_536
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class BadSetting(Invalid):
    """A setting is not written as KEY=VALUE."""

    code = "E-CLI-006"
    remedy = "such as `enjin config set TOKEN=abc`"


@click.group("config")
def config() -> None:
    """An app's settings: sealed before they leave this machine, given to its processes as environment."""


@config.command("set")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE|KEY|-…")
@app_option
@reason_option
@json_option
def set_settings(settings: tuple[str, ...], app: str | None, reason: str, as_json: bool) -> None:
    """Set settings; a change is a release, and the app starts anew with it.

    KEY alone is asked for without being shown, and `-` reads lines KEY=VALUE from standard input: such values stand in no list of processes
    and in no shell's history.

    \b
    Examples:
      enjin config set GREETING=hello
      enjin config set TOKEN
      enjin config set - < settings.env
    """
    from keys.sealing import seal_value
    from ring1.apps import ShowApp
    from ring1.commands.client import run
    from ring1.settings import SetConfig, ShowSealingKey, place_of

    name = app_name(app)
    values = dict(pair for text in settings for pair in given(text))

    async def sealed(session: Any) -> dict[str, str]:
        compartment = (await session.query(1, ShowApp(app=name)))["compartment"]
        key = await session.query(1, ShowSealingKey(compartment=compartment))
        public = bytes.fromhex(key["public"])
        return {one: seal_value(public, place_of(key["compartment"], name, one), value) for one, value in values.items()}

    wish = SetConfig(app=name, values=run(sealed))
    change_or_note(wish, reason, as_json, f"set {', '.join(sorted(values))}")


def given(text: str) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of one argument: ``KEY=VALUE``, ``KEY`` (asked for unseen), ``-`` (lines of standard input).

    Raises:
        BadSetting: It is none of these; its message repeats nothing that may be a value.
    """
    if text == "-":
        data = sys.stdin.read(INPUT_MAX + 1)
        if len(data) > INPUT_MAX:
            raise BadSetting(f"standard input has more than {INPUT_MAX} characters")
        lines = [line for line in data.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        for number, line in enumerate(lines, 1):
            key, separator, value = line.partition("=")
            if not separator or not key:
                raise BadSetting(f"setting {number} of standard input is not of the form KEY=VALUE")
            yield key, value
        return
    key, separator, value = text.partition("=")
    if not key or (not separator and NAME.fullmatch(key) is None):
        raise BadSetting("a setting is not of the form KEY=VALUE")
    if not separator:
        if not sys.stdin.isatty():
            raise BadSetting("there is no terminal to ask for a value on", hint="give `-` and the line KEY=VALUE on standard input")
        value = click.prompt(key, hide_input=True, err=True)
    yield key, value


@config.command("unset")
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@app_option
@reason_option
@json_option
def unset_settings(keys: tuple[str, ...], app: str | None, reason: str, as_json: bool) -> None:
    """Remove settings."""
    from ring1.settings import UnsetConfig

    change_or_note(UnsetConfig(app=app_name(app), keys=keys), reason, as_json, f"removed {', '.join(sorted(keys))}")


def change_or_note(wish: Any, reason: str, as_json: bool, done: str) -> None:
    """Send *wish* and follow its roll-out."""
    change(wish, reason, as_json, done)


@config.command("get")
@click.argument("key", required=False)
@app_option
@at_option
@json_option
def get_settings(key: str | None, app: str | None, at: str, as_json: bool) -> None:
    """List the names of an app's settings; values are sealed and are not shown."""
    from ring1.commands.client import run
    from ring1.settings import ListConfig

    found = run(lambda session: session.query(1, ListConfig(app=app_name(app), at=at)))
    rows = [row | {"shown": "<sealed>"} for row in found["values"] if key is None or row["key"] == key]
    if key is not None and not rows:
        raise BadSetting(f"app {found['app']} has no setting {key!r}")
    if as_json:
        print_json(found | {"values": rows})
        return
    print_rows(rows, {"key": "KEY", "shown": "VALUE"}, empty="no settings")


@click.command("logs")
@app_named
@click.option("-f", "--follow", is_flag=True, help="Go on until stopped.")
@click.option("--grep", metavar="PATTERN", help="Only lines that match this regular expression.")
@click.option("-n", "--lines", type=int, default=100, show_default=True, help="How many lines of each instance to begin with.")
@json_option
def logs(app: str | None, follow: bool, grep: str | None, lines: int, as_json: bool) -> None:
    """Print what an app's instances write."""
    from ring1.commands.client import run

    name, pattern = app_name(app), re.compile(grep) if grep else None

    async def work(session: Any) -> None:
        from ring1.nodes import ReadLogs

        after: dict[str, str] = {}
        first = True
        while True:
            for part in await session.query(1, ReadLogs(app=name, after=after)):
                if part["dropped"] and first:
                    say(f"{part['name']}: {part['dropped']} lines were dropped by the rate limit")
                for number, time, text in part["lines"][-lines:] if first else part["lines"]:
                    if pattern is None or pattern.search(text):
                        show_line(part, number, time, text, as_json)
                after[part["instance"]] = f"{part['source']}:{part['last']}"
            first = False
            if not follow:
                return
            await asyncio.sleep(0.3)

    run(work)


def show_line(part: dict[str, Any], number: int, time: int, text: str, as_json: bool) -> None:
    """Print one line."""
    if as_json:
        print_json({"instance": part["name"], "node": part["instance"], "number": number, "time": rfc3339(time), "text": text})
    else:
        click.echo(f"{part['name']:<8} {text}")
