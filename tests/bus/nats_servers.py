"""Real NATS servers for tests: processes with keys, certificates and tokens that the test makes, ended with the test."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bus.over_nats.accounts import Accounts
from bus.over_nats.link import Login
from bus.over_nats.participant import NatsTransport
from bus.over_nats.program import find_server
from bus.over_nats.server import Server, argv, write_server
from enjin.errors import Unreachable
from enjin.host import clock, random_bytes
from keys.certificates import CertificateAuthority
from keys.nats_claims import Subjects, user_token
from keys.nats_keys import NatsAuthority, UserKey
from tests.bus.waiting import until_async
from tests.places import free_port_base

CLOUD = "c1" * 32
CHANNEL = "ring0"
EVERYTHING = Subjects((">",), (">",))


def now_s() -> int:
    return clock().wall_us // 1_000_000


@dataclasses.dataclass
class Cluster:
    """One server or several that serve one cloud, whose issuer is the test."""

    folder: Path
    count: int
    authority: NatsAuthority
    certificates: CertificateAuthority
    servers: list[Server]
    processes: dict[int, subprocess.Popen[bytes]]
    users: dict[str, UserKey] = dataclasses.field(default_factory=dict)
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def certificate(self) -> str:
        return self.certificates.certificate.decode()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(server.address for server in self.servers)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(server.name for server in self.servers)

    def start(self, number: int) -> None:
        """Start server *number*."""
        with open(self.folder / f"{number}.log", "ab") as log:
            command = argv(find_server(), self.servers[number])
            self.processes[number] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end(self, number: int, how: signal.Signals = signal.SIGTERM) -> None:
        """End server *number*."""
        process = self.processes.pop(number)
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def enrol(self, name: str, subjects: Subjects = EVERYTHING, channel: str = CHANNEL, *, issued_s: int = 0, expires_s: int = 0) -> None:
        """Mint a token for *name*, in place of an earlier one."""
        key = self.users.setdefault(name, UserKey(random_bytes(32)))
        account = self.authority.account(channel)
        self.tokens[name] = user_token(account, key.public, name, subjects, issued_s=issued_s or now_s(), expires_s=expires_s)

    def login(self, name: str, *servers: str) -> Login:
        return Login(servers or self.addresses, self.certificate, self.users[name], lambda: self.tokens[name])

    def connect(self, name: str, *servers: str) -> NatsTransport:
        """Return a participant with the key and the token of *name*."""
        if name not in self.tokens:
            self.enrol(name)
        return NatsTransport.connect(self.login(name, *servers), name)

    async def open(self, *channels: str) -> None:
        """Tell every server, as soon as it answers, of the accounts of *channels*, with nobody revoked."""
        for channel in channels or (CHANNEL,):
            await self.revoke({}, channel)

    async def revoke(self, revoked: dict[str, int], channel: str = CHANNEL) -> None:
        """Tell every server who is revoked on *channel*."""

        async def told() -> bool:
            async with self.decider() as decider:
                with contextlib.suppress(Unreachable):
                    return self.names == await decider.revoke(channel, revoked, self.names)
            return False

        await until_async(told, "every server has the account")

    @contextlib.asynccontextmanager
    async def decider(self) -> AsyncIterator[Accounts]:
        """The system account's connection."""
        accounts = Accounts(self.addresses, self.certificate, self.authority)
        try:
            yield accounts
        finally:
            await accounts.close()


def make_cluster(folder: Path, count: int) -> Cluster:
    """Write what *count* servers read, below *folder*."""
    authority = NatsAuthority(random_bytes(32))
    certificates = CertificateAuthority(random_bytes(32), CLOUD)
    base = free_port_base()
    routes = tuple(f"127.0.0.1:{base + 10 + number}" for number in range(count))
    servers = []
    for number in range(count):
        cluster = {"cluster_port": base + 10 + number, "routes": routes} if count > 1 else {}
        server = Server(f"s{number}", folder / f"s{number}", "127.0.0.1", base + number, channels=(CHANNEL,), **cluster)
        leaf = certificates.leaf(random_bytes(32), ["127.0.0.1"], now_s=now_s(), lifetime_s=3600)
        write_server(server, authority, CLOUD, certificate=certificates.certificate, leaf=leaf)
        servers.append(server)
    return Cluster(folder, count, authority, certificates, servers, {})


@contextlib.contextmanager
def running_cluster(folder: Path, count: int = 1) -> Iterator[Cluster]:
    """Run *count* servers in *folder*; accounts are not told to them yet."""
    cluster = make_cluster(folder, count)
    try:
        for number in range(count):
            cluster.start(number)
        yield cluster
    finally:
        for number in list(cluster.processes):
            cluster.end(number)
