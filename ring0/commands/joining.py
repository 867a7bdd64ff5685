"""`enjin join`: tokens with which somebody gets a key of their own, on their own machine, and using one."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click
import msgspec

from enjin import config as configuration
from enjin.errors import ConfigError, EnjinError, NotFound, Unreachable, from_reply
from enjin.host import clock, random_bytes, read_bounded
from enjin.output import json_option, print_json, reason_option, rfc3339, say
from ring0.commands.client import at_option, done, run, show_rows, told, want
from ring0.commands.tokens import life_s

if TYPE_CHECKING:
    from bus.session import Session
    from keys.joining import JoinToken

PATH: Final = "/v1/join"
MEDIA: Final = "application/vnd.enjin.envelope"
ANSWER_BYTES_MAX: Final = 65_536
ANSWER_S: Final = 30.0
WARNED_US: Final = 7 * 86_400_000_000
MACHINE_FILES: Final = ("/sys/class/dmi/id/product_uuid", "/etc/machine-id")
COLUMNS: Final = {
    "id": "ID", "name": "ACCOUNT", "role": "ROLE", "compartment": "COMPARTMENT", "state": "STATE", "machine": "MACHINE", "source": "FROM",
    "created": "AGE",
}  # fmt: skip


class AlreadyJoined(ConfigError):
    """There is a key for the token's cloud here."""

    code = "E-JOI-009"
    remedy = "set ENJIN_KEYS to another directory to join under another name"


class _Join(click.Group):
    """`enjin join TOKEN` beside `enjin join token …`: what begins like a token is one."""

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            return "TOKEN", use, args
        return super().resolve_command(context, args)


@click.group("join", cls=_Join, subcommand_metavar="TOKEN | token COMMAND")
def join() -> None:
    """Join a cloud with a token that an operator handed you: your key is made here and never leaves.

    \b
    Examples:
      enjin join token create alice --role operator
      enjin join enjin1.0123456789abcdef.… --api http://127.0.0.1:7080
    """


@join.group("token")
def token() -> None:
    """Tokens for one use, within ten minutes, by whoever you hand them to.

    \b
    Examples:
      enjin join token create alice --role operator --from 127.0.0.0/8
      enjin join token revoke j-0123456789abcdef
    """


@token.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["operator", "tenant"]), default="tenant", show_default=True, help="What it may become.")
@click.option("--compartment", "place", default="", metavar="NAME", help="Where that counts (default: the cloud itself).")
@click.option("--allow", "allowed", multiple=True, metavar="VERB", help="Only these verb families (default: all of the role's).")
@click.option("--machine", default="", metavar="ID", help="Only the machine that calls itself so (`enjin join machine` says it).")
@click.option("--from", "source", default="", metavar="PREFIX", help="Only from this network, such as 10.1.0.0/16.")
@click.option("--life", default="10m", show_default=True, metavar="SPAN", help="How long it is good; ten minutes at most.")
@reason_option
@json_option
def create_token(
    name: str, role: Any, place: str, allowed: tuple[str, ...], machine: str, source: str, life: str, reason: str, as_json: bool
) -> None:
    """Make a token with which somebody joins as account NAME, and print it, once."""
    from keys.grants import VERBS
    from keys.joining import HINT_DIGITS, SECRET_BYTES, JoinToken, secret_hash
    from keys.signing import key_id
    from ring0.inviting import Invite

    secret, seconds = random_bytes(SECRET_BYTES), life_s(life)

    async def work(session: Session) -> tuple[dict[str, Any], str]:
        digest: Any = secret_hash(secret)
        wish = Invite(
            name=name, role=role, compartment=place, allowed=allowed or tuple(sorted(VERBS)), secret_hash=digest, machine=machine,
            source=source, life_s=seconds,
        )  # fmt: skip
        made = dict(await session.command(0, wish, reason=reason))
        trust = session.trust
        parent = trust.grant(trust.grant_of(session.directory.reach(0).decider) or "")
        hint = key_id(bytes.fromhex(parent.keys.issue))[:HINT_DIGITS]
        return made, JoinToken(str(trust.cloud)[:HINT_DIGITS], hint, made["id"], secret).text

    made, text = run(work)
    if as_json:
        print_json(told(made) | {"token": text})
        return
    click.echo(text)
    say(f"hand it to {name}: it is good once, until {rfc3339(made['expires'])}, and is not shown again")


@token.command("list")
@at_option
@json_option
def list_tokens(at: str, as_json: bool) -> None:
    """List the join tokens and what became of each; never their secrets."""
    from ring0.inviting import ListInvitations

    rows = run(lambda session: session.query(0, ListInvitations(at=at)))
    show_rows([_now(row, at) for row in rows], COLUMNS, as_json)


def _now(row: dict[str, Any], at: str) -> dict[str, Any]:
    """Return a token's line with what the clock says of one that nobody used: a journal's answer does not depend on when it is asked."""
    over = row["state"] == "open" and not at and row["expires"] <= clock().wall_us
    return row | {"state": "expired"} if over else row


async def misused_tokens(session: Session) -> list[str]:
    """Return what has to be said of join tokens that two have used lately: somebody else had one."""
    from ring0.inviting import ListInvitations

    try:
        rows = await session.query(0, ListInvitations())
    except EnjinError:
        return []  # who may not see the tokens is not the one to warn
    since = clock().wall_us - WARNED_US
    return [f"join token {row['id']} for {row['name']} was used by two: both keys are revoked" for row in rows if row["misused"] > since]


@token.command("revoke")
@click.argument("identity", metavar="ID")
@reason_option
@json_option
def revoke_token(identity: str, reason: str, as_json: bool) -> None:
    """Let join token ID buy nothing from now on; a key that it has bought is revoked with `enjin key revoke`."""
    from ring0.inviting import Uninvite

    done(want(Uninvite(token=identity), reason), as_json, f"join token {identity} buys nothing from now on")


@join.command("machine")
@json_option
def show_machine(as_json: bool) -> None:
    """Print what this machine calls itself, for `enjin join token create --machine`."""
    print_json({"machine": machine_id()}) if as_json else click.echo(machine_id())


def machine_id() -> str:
    """Return this machine's own name for itself: the firmware's UUID where we may read it, else its machine id; "" has neither."""
    for path in MACHINE_FILES:
        try:
            return read_bounded(path, 128).decode("ascii").strip().lower()
        except (OSError, UnicodeDecodeError):
            continue
    return ""


@click.command("join TOKEN")
@click.argument("text", metavar="TOKEN")
@click.option("--api", default="", metavar="URL", help="Ring 0's HTTP API (default: this machine's).")
@click.option("--role", type=click.Choice(["operator", "tenant"]), help="Refuse to become anything else (default: what the token says).")
@json_option
def use(text: str, api: str, role: str | None, as_json: bool) -> None:
    """Use TOKEN: make a key here, have it granted, and keep it where `enjin` finds it."""
    from keys.joining import parse_token

    config = configuration.load({})
    held = parse_token(text)
    for path in Path(config.keys).glob(f"{held.cloud}*.key"):
        raise AlreadyJoined(f"there is a key for cloud {held.cloud[:6]} at {path}")
    made = _use(config, held, api or f"http://127.0.0.1:{config.api_ports[0]}", role or "")
    done(made, as_json, f"joined cloud {made['cloud'][:6]} as {made['account']}; the key is in {made['file']}")


def _use(config: configuration.Config, held: JoinToken, api: str, role: str) -> dict[str, Any]:
    """Make a key, ask with it, and save it with what the verified answer says. Raises: FakeParent, and what it was refused with."""
    from enjin.canonical import to_text
    from keys.frame import open_frame
    from keys.grants import PublicKeys
    from keys.joining import FakeParent, JoinRequest, read_answer, sign_request
    from keys.keyring import SEED_BYTES, Keyring
    from keys.operator import OperatorKey, save_operator_key, save_roots

    cloud = _cloud_at(api)
    if not cloud.startswith(held.cloud):
        raise FakeParent(f"cloud {cloud[:16]!r} answers at {api[:80]}, and the token is for {held.cloud}")
    seed = random_bytes(SEED_BYTES)
    ring = Keyring(cloud, seed)
    keys = PublicKeys(message=ring.message.public.hex(), curve=ring.curve.public.hex(), nats=ring.nats.public.hex())
    asked = JoinRequest(
        cloud=held.cloud,
        parent=held.parent,
        token=held.id,
        secret=held.signer.public.hex(),
        ring=0,
        role=role,
        machine=machine_id(),
        keys=keys,
    )
    frame = sign_request(asked, held, ring.message)
    trust, digest = read_answer(_exchange(api, "POST", frame), held, open_frame(frame), keys)
    if str(trust.cloud) != cloud:
        raise FakeParent(f"the answer comes from another cloud than {cloud[:16]}")
    own = next(one for one in trust.frames() if open_frame(one).digest == digest)
    account, root = trust.grant(digest).subject, to_text(trust.root_frame)
    key = OperatorKey(cloud=cloud, account=account, seed=to_text(seed), root=root, grant=to_text(own), home=config.home)
    path = save_operator_key(config.keys, key)
    if trust.roots.successors:
        save_roots(config.keys, cloud, trust.roots.successors)
    return {"cloud": cloud, "account": account, "key": str(ring.message.key_id), "file": str(path)}


def _cloud_at(api: str) -> str:
    """Return the id of the cloud that answers at *api*: a hint, which the signed answer has to bear out."""
    try:
        return msgspec.json.decode(_exchange(api, "GET", b""), type=_Cloud).cloud
    except msgspec.DecodeError as error:
        raise Unreachable(f"{api[:80]} answers something else than a cloud's API") from error


class _Cloud(msgspec.Struct):
    cloud: str


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = "refused"
    hint: str = ""


def _exchange(api: str, method: str, frame: bytes) -> bytes:
    """Return what the door at *api* answers to a request to join.

    Raises:
        Unreachable: Nobody answers there.
        Refused: With the code that the door refused it with.
    """
    place = urlsplit(api)
    if place.scheme != "http" or not place.hostname:
        raise NotFound(f"{api[:80]!r} is no address of an API", hint="such as http://127.0.0.1:7080")
    connection = http.client.HTTPConnection(place.hostname, place.port or 80, timeout=ANSWER_S)
    try:
        connection.request(method, PATH, body=frame, headers={"Content-Type": MEDIA})
        response = connection.getresponse()
        data, status = response.read(ANSWER_BYTES_MAX), response.status
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"nobody answers at {api[:80]}: {error}") from error
    finally:
        connection.close()
    if status == 200:
        return data
    try:
        said = msgspec.json.decode(data, type=_Problem)
    except msgspec.DecodeError as error:
        raise Unreachable(f"{api[:80]} answers something else than a cloud's API") from error
    raise from_reply(said.code, said.detail, said.hint)
