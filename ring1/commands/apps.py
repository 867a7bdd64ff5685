"""`enjin push`, `app`, `ps`, `releases`, `rollback`, `restart`."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import click

from enjin.errors import Invalid, Refused
from enjin.names import NAME_PATTERN, Name
from enjin.output import ago, at_option, json_option, print_fields, print_json, print_rows, reason_option, say


class NotConfirmed(Refused):
    """A destroying command was not confirmed."""

    code = "E-CLI-004"
    remedy = "type the app's name when asked, or give --yes"


class BadScale(Invalid):
    """A number of processes is not written as NAME=COUNT."""

    code = "E-CLI-005"
    remedy = "such as `enjin ps scale web=3`"


def app_option(function: Any) -> Any:
    """Add ``--app``; without it the directory's name says which app is meant."""
    return click.option("--app", "app", metavar="NAME", help="The app (default: the current directory's name).")(function)


def app_named(function: Any) -> Any:
    """Let a command name its app: ``logs hello`` as well as ``logs --app hello``."""

    @click.argument("named", required=False, metavar="[APP]")
    @app_option
    @functools.wraps(function)
    def command(named: str | None, app: str | None, **others: Any) -> Any:
        if named is not None and app is not None:
            raise click.UsageError("the app is named twice, by itself and by --app")
        return function(app=named if named is not None else app, **others)

    return command


def app_name(app: str | None, directory: Path = Path()) -> Name:
    """Return the app meant. Raises: BadName."""
    return Name.parse(app if app is not None else _from_directory(directory))


def _from_directory(directory: Path) -> str:
    text = re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")[:32].rstrip("-")
    return text if re.fullmatch(NAME_PATTERN, text) else directory.resolve().name


def change(wish: Any, reason: str, as_json: bool, done: str) -> None:
    """Send *wish*, follow its operation, and say *done*."""
    from ring1.commands.client import Stages, follow, run

    stages = Stages(as_json)

    async def work(session: Any) -> dict[str, Any]:
        asked = await session.command(1, wish, reason=reason)
        ended = await follow(session, asked["operation"], stages)
        return ended | {"asked": asked}

    ended = run(work)
    if as_json:
        print_json({"app": wish.app, "release": ended["release"], "url": ended["url"], "seconds": round(stages.seconds, 2)})
    else:
        say(f"{done} in {stages.seconds:.1f} s")


@click.command("push")
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@app_option
@click.option("--compartment", default="default", show_default=True, help="The tenant's compartment.")
@click.option("--strategy", type=click.Choice(["jail", "user", "process"]), help="How its instances are isolated.")
@reason_option
@json_option
def push(directory: Path, app: str | None, compartment: str, strategy: str | None, reason: str, as_json: bool) -> None:
    """Build DIRECTORY and put it live; ends with the app's URL."""
    from ring1.apps import Push
    from ring1.commands.client import Stages, follow, run, upload

    name = app_name(app, directory)
    stages = Stages(as_json)

    async def work(session: Any) -> dict[str, Any]:
        packed = await upload(session, directory)
        stages.done("upload", f"{packed.entries} files, {packed.size} bytes ({packed.source})")
        wish = Push(app=name, compartment=compartment, source=packed.digest, strategy=strategy or "")  # type: ignore[arg-type]
        asked = await session.command(1, wish, reason=reason)
        ended = await follow(session, asked["operation"], stages)
        for note in ended["notes"]:
            say(f"  note: {note}")
        await warn_of_isolation(session, name)
        return ended

    ended = run(work)
    if as_json:
        print_json({"app": name, "release": ended["release"], "url": ended["url"], "seconds": round(stages.seconds, 2)})
    else:
        click.echo(ended["url"])
        say(f"live in {stages.seconds:.1f} s  (release {ended['release']})")


async def warn_of_isolation(session: Any, app: str) -> None:
    """Say it where little or nothing separates an app's instances, and builds, from the machine."""
    from ring1.nodes import ListNodes

    for node in await session.query(1, ListNodes()):
        if node["label"].startswith(f"{app}.") and node["strategy"] == "process":
            means = node["isolation"].get("means", "")
            if means == "no isolation":
                say("  warning: no isolation: instances run as the user who raised the cloud, with all that this user may")
            say("  warning: builds and instances share this machine's network: listening on 0.0.0.0 is listening to all of it")
            return


@click.group("app")
def app_group() -> None:
    """List, show and destroy apps."""


@app_group.command("list")
@at_option
@json_option
def list_apps(at: str, as_json: bool) -> None:
    """List the apps that you may see."""
    from ring1.apps import ListApps
    from ring1.commands.client import run

    rows = run(lambda session: session.query(1, ListApps(at=at)))
    if as_json:
        print_json(rows)
        return
    print_rows(
        rows,
        {"name": "APP", "state": "STATE", "release": "RELEASE", "strategy": "STRATEGY", "instances": "INSTANCES", "url": "URL"},
        empty="no apps yet: `enjin push DIR`",
    )


@app_group.command("show")
@click.argument("app")
@at_option
@json_option
def show_app(app: str, at: str, as_json: bool) -> None:
    """Show everything about APP."""
    from ring1.apps import ShowApp
    from ring1.commands.client import run

    found = run(lambda session: session.query(1, ShowApp(app=app, at=at)))
    print_json(found) if as_json else print_fields(found)


@app_group.command("destroy")
@click.argument("app")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@json_option
def destroy(app: str, yes: bool, reason: str, as_json: bool) -> None:
    """Destroy APP: its instances, releases and settings. There is no undo."""
    from ring1.apps import Destroy

    name = Name.parse(app)
    if not yes:
        typed = click.prompt(f"This destroys {name} for ever. Type its name to go on", default="", show_default=False)
        if typed != name:
            raise NotConfirmed("nothing was destroyed")
    change(Destroy(app=name), reason, as_json, f"{name} is destroyed")


@click.group("ps", invoke_without_command=True)
@app_option
@at_option
@json_option
@click.pass_context
def ps(context: click.Context, app: str | None, at: str, as_json: bool) -> None:
    """List an app's instances; `ps scale web=3` changes how many there are."""
    if context.invoked_subcommand is not None:
        return
    from ring1.commands.client import run
    from ring1.instances import ListInstances

    rows = run(lambda session: session.query(1, ListInstances(app=app or "", at=at)))
    if as_json:
        print_json(rows)
        return
    shown = [row | {"name": f"{row['process']}.{row['index']}", "for": ago(row["since"])} for row in rows]
    print_rows(
        shown,
        {
            "app": "APP",
            "name": "INSTANCE",
            "state": "STATE",
            "release": "RELEASE",
            "exits": "EXITS",
            "for": "FOR",
            "address": "ADDRESS",
            "port": "PORT",
        },
    )


@ps.command("scale")
@click.argument("counts", nargs=-1, required=True, metavar="PROCESS=COUNT…")
@app_option
@reason_option
@json_option
def scale(counts: tuple[str, ...], app: str | None, reason: str, as_json: bool) -> None:
    """Set how many instances of which processes run."""
    from ring1.processes import Scale

    processes = {}
    for text in counts:
        process, _, count = text.partition("=")
        if not process or not count.isdecimal():
            raise BadScale(f"{text!r} is not of the form PROCESS=COUNT")
        processes[process] = int(count)
    change(Scale(app=app_name(app), processes=processes), reason, as_json, "scaled")


@click.command("releases")
@app_named
@at_option
@json_option
def releases(app: str | None, at: str, as_json: bool) -> None:
    """List an app's releases, newest first."""
    from ring1.commands.client import run
    from ring1.releases import ListReleases

    rows = run(lambda session: session.query(1, ListReleases(app=app_name(app), at=at)))
    if as_json:
        print_json(rows)
        return
    shown = [row | {"made": ago(row["created"]), "tree": row["tree"][:12]} for row in rows]
    print_rows(shown, {"release": "RELEASE", "state": "STATE", "cause": "CAUSE", "made": "AGO", "tree": "TREE", "code": "CODE", "by": "BY"})


@click.command("rollback")
@click.argument("release", type=int, default=0)
@app_option
@reason_option
@json_option
def rollback(release: int, app: str | None, reason: str, as_json: bool) -> None:
    """Go back to RELEASE, or to the one that was live before."""
    from ring1.releases import Rollback

    change(Rollback(app=app_name(app), release=release), reason, as_json, "rolled back")


@click.command("restart")
@app_named
@reason_option
@json_option
def restart(app: str | None, reason: str, as_json: bool) -> None:
    """Replace an app's instances by new ones, without losing a request."""
    from ring1.processes import Restart

    change(Restart(app=app_name(app)), reason, as_json, "restarted")
