"""Planted canaries and the cloud's own secrets: where they must not turn up, and who may read or write what root relies on."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from enjin.canonical import from_text, to_text
from keys.grants import PublicKeys
from keys.keyring import Keyring
from keys.sealing import seal_value
from keys.shares import read_share
from ring0.keys import ListKeys
from ring1.settings import SetConfig, ShowSealingKey
from tests.attacks.voices import MEDIA, Voices
from tests.cloud import ENJIN, Cloud, CommandFailed

SEED_BYTES = 32


class Canaries(NamedTuple):
    """Every secret of the cloud, by name, each in every form in which it could leak."""

    forms: dict[str, tuple[bytes, ...]]

    def found(self, data: bytes) -> list[str]:
        """Return the names of the secrets that stand in *data*."""
        return [name for name, forms in self.forms.items() if any(form in data for form in forms)]


def forms(secret: bytes) -> tuple[bytes, ...]:
    """Return a binary secret as it is, in hex and in base64url."""
    return (secret, secret.hex().encode(), secret.hex().upper().encode(), to_text(secret).encode())


@pytest.fixture(scope="module")
def canaries(cloud: Cloud, voices: Voices) -> Iterator[Canaries]:
    """Plant a setting and a token, and learn the seeds."""
    setting = f"canary{secrets.token_hex(12)}"
    words = [ENJIN, "config", "set", "--app", "hello", "-", "--reason", "a test"]
    lines = f"# what an app needs\n\nCANARY={setting}\n"
    subprocess.run(words, input=lines, env=cloud.environment, text=True, capture_output=True, check=True)
    cloud.run("config", "get", "--app", "hello", check=False)
    token = voices.token("default")
    assert voices.http(1, "GET", "/v1/app/list", None, {"Authorization": f"Bearer {token}"}).status == 200
    found = {"setting": (setting.encode(),), "token": (token.rpartition("_")[2].encode(),)}
    for path in seeds(cloud):
        found[str(path.relative_to(cloud.folder))] = forms(seed_in(path))
    key = next((cloud.folder / "c").rglob("*.key"))
    found["operator"] = forms(from_text(msgspec.json.decode(key.read_bytes())["seed"]))
    assert len(found) >= 9
    yield Canaries(found)
    cloud.run("config", "unset", "--app", "hello", "CANARY")


def seeds(cloud: Cloud) -> list[Path]:
    """Return every file that holds a secret key, wherever it lies in the state directory."""
    found = [path for path in cloud.home.rglob("*") if path.suffix in (".seed", ".key") or path.name == "secret"]
    return [path for path in found if path.is_file() and "runtime" not in path.parts and "releases" not in path.parts]


def seed_in(path: Path) -> bytes:
    """Return the secret in a file of `seeds`: a root share has more beside it, and all of that is public."""
    if path.name.startswith("share-"):
        return from_text(read_share(path).seed)
    return path.read_bytes()[:SEED_BYTES]


def test_seeds_and_keys_are_their_owners_alone(cloud: Cloud) -> None:
    """The operator's key, root shares, every seed, hub and sealing keys: mode 0600, in directories that nobody else may enter."""
    files = [*seeds(cloud), *(cloud.folder / "c").rglob("*.key")]
    names = {path.name for path in files}
    assert {"share-1.key", "node.seed", "issuer.seed", "secret"} <= names
    for path in files:
        status = path.stat()
        assert (path, 0o600) == (path, stat.S_IMODE(status.st_mode))
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0, path.parent
        assert path.parent.stat().st_uid == status.st_uid


def test_n75_no_secret_in_what_is_kept(cloud: Cloud, canaries: Canaries) -> None:
    """N75: journals, projections, replies, blobs, records and every other file of the state directory hold no secret but their own."""
    own = {*seeds(cloud)}
    files = [path for path in cloud.home.rglob("*") if path.is_file() and not path.is_symlink()]
    kept = [path for path in files if "runtime" not in path.parts and path not in own]
    assert {"journal.db", "foundation.json"} <= {path.name for path in kept}
    leaked = {str(path): found for path in kept if (found := canaries.found(path.read_bytes()))}
    assert leaked == {}


def test_n75_no_secret_in_journals_rows(cloud: Cloud, voices: Voices, canaries: Canaries) -> None:
    """N75: not in any column of any table either, as a database reads them; the setting itself is there, sealed."""
    paths = [cloud.home / "ring0" / "journal.db", cloud.home / "nodes" / voices.ring1 / "state" / "ring1" / "journal.db"]
    sealed = False
    for path in paths:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    data = repr(row).encode() + b"".join(value for value in row if isinstance(value, bytes))
                    assert canaries.found(data) == [], (path.name, table)
                    sealed = sealed or b"CANARY" in data
    assert sealed


def test_n75_no_secret_in_logs(cloud: Cloud, voices: Voices, canaries: Canaries) -> None:
    """N75: not in what any daemon of either ring wrote, nor in what its init says of it."""
    for ring in (0, 1):
        lines = [line for service in ("daemon", "hands", "hub") for _, line in voices.log(ring, service=service)]
        assert lines
        assert canaries.found("\n".join(lines).encode()) == []
    assert canaries.found((cloud.home / "log" / "init.log").read_bytes()) == []


def test_n75_no_secret_in_processes(cloud: Cloud, canaries: Canaries) -> None:
    """N75: no command line and no environment of any daemon holds one; the app's own environment holds its own setting alone."""
    seen = 0
    for process in cloud.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert canaries.found(line) == []
            daemon = b"supervision" in line or b"ring" in line or b"bus.hub" in line or b"haproxy" in line
            assert canaries.found(environment) in ([], [] if daemon else ["setting"]), line
            seen += daemon
    assert seen >= 6


def test_n75_no_core_dumps(cloud: Cloud) -> None:
    """N75: no process of the cloud may leave a core dump."""
    for process in cloud.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), process.line


def test_n75_no_secret_in_answers(cloud: Cloud, voices: Voices, canaries: Canaries) -> None:
    """N75: neither a problem of the HTTP door nor an error of the command line repeats a secret that was sent to it."""
    setting = canaries.forms["setting"][0].decode()
    token = voices.token("default")
    bearer = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    secret = token.rpartition("_")[2]
    said = [
        voices.http(1, "POST", "/v1/config/set", msgspec.json.encode({"app": "hello", "values": {"CANARY": setting}}), bearer),
        voices.http(1, "POST", "/v1/config/set", msgspec.json.encode({"app": "hello", "values": {setting: "x"}, "more": 1}), bearer),
        voices.http(1, "GET", "/v1/app/list", None, {"Authorization": f"Bearer {token[:-1]}"}),
        voices.http(1, "GET", f"/v1/{secret}", None, bearer),
        voices.http(1, "GET", "/v1/config/list?app=hello", None, bearer),
        voices.http(1, "GET", "/v1/token/list", None, bearer),
        voices.http(1, "POST", "/v1/envelope", secret.encode(), {"Content-Type": MEDIA}),
    ]
    assert [told.status for told in said[:4]] == [400, 400, 401, 404]
    for told in said:
        assert secret.encode() not in told.body
        assert canaries.found(told.body) == []
    for words in (
        ["config", "set", "--app", "no-such-app", f"A={setting}"],
        ["config", "set", "--app", "hello", f"1 bad={setting}"],
        ["config", "set", "--app", "hello", setting],
        ["config", "set", "--app", "hello", f"={setting}"],
    ):
        with pytest.raises(CommandFailed) as failed:
            cloud.run(*words)
        assert setting not in str(failed.value).partition("\n")[2]


@pytest.mark.parametrize("form", ["hunter22", "hex", "first form"])
def test_n75_a_value_that_was_not_sealed_gets_nowhere(cloud: Cloud, voices: Voices, form: str) -> None:
    """N75: clear text that happens to be base64url is refused at both doors and is in no journal; the same value sealed is taken."""
    given = {"hunter22": f"hunter{secrets.token_hex(5)}", "hex": secrets.token_hex(32), "first form": to_text(secrets.token_bytes(90))}
    value = given[form]
    assert from_text(value)  # nothing but the form tells it from a sealed one
    body = msgspec.json.encode({"app": "hello", "values": {"PASSWORD": value}})
    bearer = {"Authorization": f"Bearer {voices.token('default')}", "Content-Type": "application/json"}
    before = voices.settled(1)
    told = voices.http(1, "POST", "/v1/config/set", body, bearer)
    assert (told.status, told.problem["code"], value.encode() in told.body) == (400, "E-CFG-004", False)
    wish = SetConfig(app="hello", values={"PASSWORD": value})  # type: ignore[arg-type]
    reply = voices.post(1, voices.frame(1, wish)).body
    assert (b"E-CFG-004" in reply, value.encode() in reply) == (True, False)
    assert before == voices.state(1)
    journal = cloud.home / "nodes" / voices.ring1 / "state" / "ring1"
    assert [path for path in journal.glob("journal.db*") if value.encode() in path.read_bytes()] == []
    shown = voices.query(1, ShowSealingKey())
    sealed = seal_value(bytes.fromhex(shown["public"]), "default/hello/PASSWORD", value)
    voices.command(1, SetConfig(app="hello", values={"PASSWORD": sealed}))  # type: ignore[arg-type]
    assert voices.state(1).number > before.number
    cloud.run("config", "unset", "--app", "hello", "PASSWORD")
    assert [path for path in journal.glob("journal.db*") if value.encode() in path.read_bytes()] == []


def test_n75_no_secret_is_listed(voices: Voices, canaries: Canaries) -> None:
    """Public halves are public: what keys are listed holds none of the secret ones."""
    listed = msgspec.json.encode(voices.query(0, ListKeys()))
    assert canaries.found(listed) == []
    assert isinstance(voices.operator.keyring, Keyring)
    assert PublicKeys.__struct_fields__


def ancestors(path: Path) -> list[Path]:
    """Return *path*, what it leads to, and every directory above, up to the root."""
    found = [path]
    if path.is_symlink():
        found += ancestors(path.resolve())
    return [*found, *path.parents]


def owned_by_root(path: Path) -> bool:
    """Whether nobody but root can change *path*: its owner is root, and group and others may not write (or it is sticky)."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return status.st_uid == 0
    loose = status.st_mode & 0o022 and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX)
    return status.st_uid == 0 and not loose


def test_nobody_else_can_write_what_root_reads_or_executes(cloud: Cloud) -> None:
    """No file that a root process of the cloud has open for reading, maps, executes or is told to read can be changed by another uid."""
    told = [cloud.home / "foundation.json", *(cloud.home / "init").glob("*.json"), *(cloud.home / "hands").rglob("*.json")]
    told = [path for path in told if path.name != "build.json"]  # what ring 0's daemon alone reads
    paths = {*told, *(cloud.home / "runtime").rglob("*")}
    roots = [process for process in cloud.processes() if _uid(process.pid) == 0]
    assert len(roots) >= 2
    for process in roots:
        for link in (Path(f"/proc/{process.pid}/exe"), Path(f"/proc/{process.pid}/cwd")):
            paths.add(link.resolve())
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            name = line.split(maxsplit=5)[5:]
            if name and name[0].startswith("/") and not name[0].startswith(("/memfd:", "/dev/zero")):
                paths.add(Path(name[0].removesuffix(" (deleted)")))
        paths |= {Path(word) for word in process.argv if word.startswith("/") and not word.startswith("/proc/")}
    whole = {part for path in paths if path.exists() for part in ancestors(path)}
    assert len(whole) > 100
    assert sorted(str(path) for path in whole if not owned_by_root(path)) == []


def test_the_daemons_directory_holds_nothing_that_root_relies_on(cloud: Cloud) -> None:
    """HOME/run and HOME/bus are the daemon's; everything else below HOME that it can write is its own keys and journal."""
    daemon = next(process for process in cloud.find("ring0.daemon"))
    uid = _uid(daemon.pid)
    assert uid != 0
    writable = sorted(path.name for path in cloud.home.iterdir() if path.stat().st_uid == uid or path.stat().st_mode & 0o002)
    assert writable == ["bus", "ring0", "run"]
    roots = msgspec.json.decode((cloud.home / "init" / "hands.json").read_bytes())["roots"]
    assert roots == {"nodes": str(cloud.home / "nodes")}  # hands removes and shows what lies in there, and nothing else of HOME
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines() if ":\t" in line)
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    assert status["Groups"].split() in ([], [str(uid)])


def _uid(pid: int) -> int:
    return os.stat(f"/proc/{pid}").st_uid
