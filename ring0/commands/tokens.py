"""`enjin token`: bearer tokens for the HTTP APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from bus.messages import Command, Query
from compartments.accounts import secret_hash, token_text
from enjin.errors import Invalid
from enjin.host import clock, random_bytes
from enjin.output import json_option, print_json, reason_option, say
from ring0.commands.client import ask, at_option, done, run, show_rows, told, want

if TYPE_CHECKING:
    from bus.session import Session

SECRET_BYTES: Final = 32
SPANS: Final = {"m": 60, "h": 3_600, "d": 86_400}


class BadLife(Invalid):
    """A token's life is not written in a known way."""

    code = "E-CLI-011"
    remedy = "write 30m, 12h or 90d"


class CreateRing1Token(Command, kind="token.create", kw_only=True):
    """Ring 1's wish for a token: rings share no code, only what is said on the wire."""

    name: str
    secret_hash: str
    compartment: str = "default"
    role: str = "tenant"
    life_s: int = 0


class RevokeRing1Token(Command, kind="token.revoke"):
    """Ring 1's wish to refuse a token."""

    token: str


class ListRing1Tokens(Query, kind="token.list", kw_only=True):
    """Ring 1's tokens."""

    compartment: str = ""


@click.group("token")
def token() -> None:
    """Bearer tokens for the HTTP APIs: of an account, narrower than it, shown once.

    \b
    Examples:
      enjin token create ci --compartment tenant-a --life 90d
      enjin token revoke ci --reason "moved to another CI"
    """


def ring_option(function: Any) -> Any:
    """Add ``--ring``."""
    return click.option("--ring", type=click.IntRange(0, 1), default=1, show_default=True, help="Whose API: 0 the cloud's, 1 the apps'.")(
        function
    )


def life_s(text: str) -> int:
    """Return the seconds that ``90d`` stands for; 0 for ``""``. Raises: BadLife."""
    if not text:
        return 0
    number, unit = text[:-1], text[-1:]
    if unit not in SPANS or not (number.isascii() and number.isdecimal()) or len(number) > 6 or not int(number):
        raise BadLife(f"{text[:40]!r} is not a life")
    return int(number) * SPANS[unit]


@token.command("create")
@click.argument("name")
@ring_option
@click.option("--role", type=click.Choice(["tenant", "operator"]), default="tenant", show_default=True, help="What it may do.")
@click.option("--compartment", "place", default="default", show_default=True, metavar="NAME", help="Where it counts.")
@click.option("--life", default="", metavar="SPAN", help="How long it lives: 30m, 12h, 90d (default: until it is revoked).")
@reason_option
@json_option
def create_token(name: str, ring: int, role: Any, place: str, life: str, reason: str, as_json: bool) -> None:
    """Make token NAME of your account and print it, once: nothing keeps it but you."""
    from ring0.accounts import CreateToken

    secret, seconds = random_bytes(SECRET_BYTES).hex(), life_s(life)

    async def work(session: Session) -> dict[str, Any]:
        digest: Any = secret_hash(secret)
        if ring == 1:
            inner = CreateRing1Token(name=name, secret_hash=digest, compartment=place, role=role, life_s=seconds)
            return dict(await session.command(1, inner, reason=reason))
        expires = clock().wall_us + seconds * 1_000_000 if seconds else 0
        wish = CreateToken(account=session.key.account, name=name, compartment=place, role=role, secret_hash=digest, expires=expires)
        return dict(await session.command(0, wish, reason=reason))

    made = run(work)
    text = token_text(made["id"], secret)
    if as_json:
        print_json(told(made) | {"token": text})
        return
    click.echo(text)
    say(f"token {name} ({made['id']}) for ring {ring}'s API: `Authorization: Bearer …`; it is not shown again")


@token.command("list")
@ring_option
@at_option
@json_option
def list_tokens(ring: int, at: str, as_json: bool) -> None:
    """List the tokens that you may see; never their secrets."""
    from ring0.accounts import ListTokens

    rows = ask(ListRing1Tokens(at=at) if ring else ListTokens(at=at), ring)
    columns = {"name": "TOKEN", "role": "ROLE", "compartment": "COMPARTMENT", "account": "ACCOUNT", "created": "AGE", "id": "ID"}
    show_rows(rows, columns, as_json)


@token.command("revoke")
@click.argument("name", metavar="TOKEN")
@ring_option
@reason_option
@json_option
def revoke_token(name: str, ring: int, reason: str, as_json: bool) -> None:
    """Refuse TOKEN (a name or id) from now on. There is no undo."""
    from ring0.accounts import RevokeToken

    wish: Command = RevokeRing1Token(token=name) if ring else RevokeToken(token=name)
    done(want(wish, reason, ring), as_json, f"token {name} is refused from now on")
