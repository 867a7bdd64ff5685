"""The ``enjin`` command: finds the command modules by entry points, loads only the one that is asked for, and turns
errors into one clear line and an exit status.

A command module is an entry point of group ``enjin.commands``: its name is the word on the command line, its value a
click command or group. ``--version`` and ``--help`` load none of them, so the one-line summaries stand here.

Exit statuses: 0 done, 1 refused or failed, 2 wrong usage or configuration, 3 partial, 255 plan error.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from enjin import __version__
from enjin.errors import CODES, EnjinError, code_of

GROUP: Final = "enjin.commands"
PACKAGES: Final = ("enjin", "keys", "bus", "compartments", "supervision", "ring0", "ring1", "ring2")

SECTIONS: Final = (
    ("Cloud", {
        "genesis": "make the three shares of a new cloud's root",
        "up": "raise the cloud on this machine, or mend it",
        "down": "stop it; --destroy removes it",
        "status": "what runs, where, since when",
        "doctor": "what this machine can do, with remedies",
    }),
    ("Apps", {
        "push": "build a directory and put it live",
        "app": "list, show, destroy",
        "logs": "an app's output, live with -f",
        "ps": "processes: list and scale",
        "config": "an app's settings, sealed",
        "releases": "an app's history",
        "rollback": "go back to an earlier release",
        "restart": "start an app's instances anew",
    }),
    ("World", {
        "compartment": "create, list, show, shred",
        "tier": "create, list, assign",
        "node": "list, show, stop, start, restart, remove",
        "network": "create, list",
        "address": "assign, release, list",
        "graph": "the compartment graph, now or --at a time",
    }),
    ("Trust", {
        "key": "list, create, rotate, revoke",
        "token": "create, list, revoke",
        "approvals": "what waits for another operator",
        "approve": "say yes to it, or no",
        "join": "use a token that an operator handed you; make such tokens",
        "root": "whose keys are the root; replace them all",
        "trust": "why something is believed, down to the root",
        "audit": "who did what, when and why; verify, export, diff, repair",
    }),
    ("Bus", {
        "ask": "one question to many daemons, and everybody's answer",
        "bus": "watch what passes; measure",
    }),
    ("Help", {
        "help": "explain an error code, or a command",
        "init": "write a commented configuration",
    }),
)  # fmt: skip

EXAMPLES: Final = """Examples:
  enjin up                        raise a cloud on this machine
  enjin push examples/hello       build an app and get its URL
"""


def entry_points() -> Any:
    """Return the entry points of the installed command modules."""
    from importlib.metadata import entry_points as installed  # 30 ms that neither --version nor --help needs

    return installed(group=GROUP)


class Commands(click.Group):
    """The commands that the installed modules declare, loaded one at a time."""

    def list_commands(self, context: click.Context) -> list[str]:
        names = {entry.name for entry in entry_points()}
        return sorted(names | {"help"})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "help":
            return explain
        for entry in entry_points():
            if entry.name == name:
                loaded: Any = entry.load()
                return loaded if isinstance(loaded, click.Command) else None
        return None

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(context), 1)
            raise click.UsageError(
                f"there is no command {args[0]!r}" + (f"; did you mean {close[0]!r}?" if close else ""), context
            ) from error

    def format_help(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(EXAMPLES + "\nUsage: enjin COMMAND [ARGS]…      enjin COMMAND --help tells more\n")
        for title, commands in SECTIONS:
            formatter.write(f"\n{title}:\n")
            for name, summary in commands.items():
                formatter.write(f"  {name:<12} {summary}\n")
        formatter.write("\nEvery reading command takes --json; every changing one takes --reason TEXT.\n")


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="enjin %(version)s")
def enjin() -> None:
    """A cloud of your own."""


@click.command("help")
@click.argument("topic", required=False)
@click.pass_context
def explain(context: click.Context, topic: str | None) -> None:
    """Explain an error CODE, or show a command's help."""
    if topic is None:
        click.echo(enjin.get_help(context.find_root()))
        return
    if topic.upper().startswith("E-"):
        _load_everything()
        row = CODES.get(topic.upper())
        if row is None:
            raise click.UsageError(f"there is no error code {topic}")
        click.echo(f"{row.code}: {row.meaning}")
        if row.remedy:
            click.echo(f"What to do: {row.remedy}")
        return
    command = enjin.get_command(context, topic)
    if command is None:
        raise click.UsageError(f"there is no command {topic!r}")
    click.echo(command.get_help(click.Context(command, info_name=topic, parent=context.find_root())))


def _load_everything() -> None:
    """Import every module of ours: the table of codes is filled as classes are defined."""
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name != "__main__.py":
                import_module(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))


def describe(error: EnjinError) -> str:
    """Return the one line that a person reads: what failed and why, what to do, the code."""
    hint = f"; {error.hint}" if error.hint else ""
    return f"enjin: {error.message}{hint} [{code_of(error)}]"


def main() -> None:
    """Entry point of the ``enjin`` console script."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"enjin {__version__}\n")
        return
    try:
        status = enjin.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except EnjinError as error:
        sys.stderr.write(describe(error) + "\n")
        sys.exit(error.exit_status)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        sys.stderr.write("enjin: stopped\n")
        sys.exit(130)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = f" (see `{context.command_path} --help`)" if context is not None else ""
        sys.stderr.write(f"enjin: {error.format_message()}{where} [E-CLI-001]\n")
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
