"""HAProxy's configuration as text.

Owns the two files HAProxy starts from, and the form of every word in them. Pure. Does not speak to a running HAProxy
(``haproxy_control``) and does not decide where anything goes (``routing``).

INV-RTE-1: every word that reaches the configuration, the map or the control socket has matched a pattern in full; nothing is
quoted or escaped, because nothing that would need it gets here.

Source: HAProxy 2.6 configuration manual and management guide.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from enjin.errors import ConfigError, Invalid

SLOTS: Final = 64
SOCKET_PATH_BYTES_MAX: Final = 96
"""sun_path takes 107, and HAProxy binds to ``PATH.<pid>.tmp`` before it renames."""
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_SERVER: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_BIND: Final = re.compile(r"fd@[0-9]{1,4}")
_PATH: Final = re.compile(r"/[A-Za-z0-9._/-]+")
SERVER_OPTIONS: Final = "check inter 500ms fastinter 250ms downinter 100ms rise 1 fall 6 pool-max-conn 128 pool-purge-delay 1s"
"""Down after about two seconds without a listener, up again within 100 ms of one: a restarting app is waited for, not skipped.

The pool is spelled out because a server added at run time has none of the defaults: HAProxy 2.6 then opens a connection for every
request, which measured a third of the requests per second.
"""


class BadRoute(Invalid):
    """A host name, address or path cannot stand in the router's configuration."""

    code = "E-RTE-001"


class BadRouterSettings(ConfigError):
    """The router cannot run with these settings."""

    code = "E-RTE-002"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a router is started with.

    ``binds``: ``fd@N`` for a listener passed by init, or ``address:port``. ``directory``: absolute; holds configuration, map and
    control socket; writable by the daemon and by the router's uid. ``control_mode``: of the control socket.
    """

    binds: tuple[str, ...]
    directory: str
    connections: int = 2_000
    control_mode: str = "660"

    @property
    def config_path(self) -> str:
        """The configuration file."""
        return f"{self.directory}/haproxy.cfg"

    @property
    def map_path(self) -> str:
        """The map from host to slot."""
        return f"{self.directory}/hosts.map"

    @property
    def control_path(self) -> str:
        """The control socket."""
        return f"{self.directory}/control.sock"

    @property
    def argv(self) -> tuple[str, ...]:
        """How to start the router, in the foreground."""
        return ("haproxy", "-db", "-f", self.config_path)

    @property
    def files(self) -> int:
        """The least limit of open files it needs."""
        return 2 * self.connections + 8 * SLOTS + 64


class Server(msgspec.Struct, frozen=True, order=True):
    """One live instance: its id, and where it answers. ``number`` is HAProxy's own id of it, chosen by ``routing.place``."""

    name: str
    address: str
    port: int
    number: int = 0

    @property
    def endpoint(self) -> str:
        """Address and port as HAProxy writes them."""
        address = ipaddress.ip_address(self.address)
        return f"ipv6@{address}:{self.port}" if address.version == 6 else f"{address}:{self.port}"


class Slot(msgspec.Struct, frozen=True, order=True):
    """A backend that exists before anybody uses it, and who uses it."""

    number: int
    hosts: tuple[str, ...] = ()
    servers: tuple[Server, ...] = ()

    @property
    def backend(self) -> str:
        """The backend's name."""
        return f"b_slot{self.number}"


class Files(msgspec.Struct, frozen=True):
    """What a fresh start of HAProxy reads."""

    config: str
    hosts: str


def render(settings: Settings, slots: Iterable[Slot]) -> Files:
    """Return the files from which a fresh HAProxy comes up with exactly *slots*.

    Raises:
        BadRouterSettings, BadRoute: A word is not of its form.
    """
    check_settings(settings)
    used = {slot.number: slot for slot in slots}
    if len(used) > SLOTS or not set(used) <= set(range(1, SLOTS + 1)):
        raise BadRoute(f"a slot is not in 1..{SLOTS}")
    parts = [_GLOBAL.format(settings=settings), _FRONTEND.format(settings=settings)]
    parts += [f"  bind {bind}\n" for bind in settings.binds]
    parts.append(_SLOT_DEFAULTS)
    hosts = []
    for number in range(1, SLOTS + 1):
        slot = used.get(number, Slot(number))
        parts.append(f"backend {slot.backend} from slot\n")
        for server in slot.servers:
            check_server(server)
            parts.append(f"  server {server.name} {server.endpoint} {SERVER_OPTIONS} weight 1 id {server.number}\n")
        hosts += [f"{check_host(host)} {slot.backend}\n" for host in slot.hosts]
    return Files(config="".join(parts), hosts="".join(sorted(hosts)))


def check_settings(settings: Settings) -> None:
    """Raise ``BadRouterSettings`` unless every word of *settings* is of its form."""
    if _PATH.fullmatch(settings.directory) is None or len(settings.control_path.encode()) > SOCKET_PATH_BYTES_MAX:
        raise BadRouterSettings(
            f"the router's directory {settings.directory!r} is not absolute, plain and short",
            hint=f"{SOCKET_PATH_BYTES_MAX - len('/control.sock')} bytes of letters, digits, dot, - and / are allowed",
        )
    if not settings.binds:
        raise BadRouterSettings("the router has nothing to listen on")
    for bind in settings.binds:
        address, _, port = bind.rpartition(":")
        if _BIND.fullmatch(bind) is None and not (_is_address(address.strip("[]")) and _is_port(port)):
            raise BadRouterSettings(f"{bind!r} is neither fd@N nor address:port")
    if re.fullmatch(r"[0-7]{3}", settings.control_mode) is None or not 16 <= settings.connections <= 100_000:
        raise BadRouterSettings("the control socket's mode or the number of connections is out of range")


def check_server(server: Server) -> Server:
    """Return *server*, or raise ``BadRoute``."""
    if _SERVER.fullmatch(server.name) is None or not _is_address(server.address) or not _is_port(str(server.port)):
        raise BadRoute(f"an instance {ascii(server.name)[:60]} at {ascii(server.address)[:60]} cannot be routed to")
    return server


def check_host(host: str) -> str:
    """Return *host*, or raise ``BadRoute``: a lower-case DNS name without a trailing dot or port."""
    if _HOST.fullmatch(host) is None:
        raise BadRoute(f"{ascii(host)[:80]} is not a host name")
    return host


def _is_address(text: str) -> bool:
    try:
        return "%" not in str(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 65_536


_GLOBAL: Final = """\
# Written by enjin with every change; edits are lost.
global
  nbthread 1
  maxconn {settings.connections}
  stats socket {settings.control_path} mode {settings.control_mode} level admin
  stats timeout 10s
  log stderr format raw local0 notice
defaults base
  mode http
  timeout connect 150ms
  timeout check 1s
  timeout queue 1s
  timeout client 30s
  timeout client-fin 5s
  timeout server 60s
  timeout server-fin 5s
  timeout tunnel 1h
  timeout http-request 10s
  timeout http-keep-alive 60s
  http-error status 400 content-type text/plain string "enjin: this is not a request that can be passed on\\n"
  http-error status 408 content-type text/plain string "enjin: the request took too long to arrive\\n"
  http-error status 502 content-type text/plain string "enjin: the app's answer is not HTTP, or it broke off\\n"
  http-error status 503 content-type text/plain hdr retry-after 1 string "enjin: the app does not answer; it may be restarting\\n"
  http-error status 504 content-type text/plain string "enjin: the app took too long to answer\\n"
"""

_FRONTEND: Final = """\
backend b_none from base
  http-request return status 404 content-type text/plain lf-string "enjin: no app is called %[var(txn.host)]\\n"
frontend front from base
  http-request deny deny_status 400 if {{ req.hdr_cnt(host) gt 1 }} || {{ req.hdr_cnt(content-length) gt 1 }}
  http-request deny deny_status 400 if {{ req.hdr_cnt(transfer-encoding) gt 0 }} {{ req.hdr_cnt(content-length) gt 0 }}
  http-request deny deny_status 400 unless {{ req.fhdr(host) -m reg -i ^[a-z0-9.-]{{1,254}}(:[0-9]{{1,5}})?$ }}
  http-request deny deny_status 400 unless {{ req.ver 1.0 1.1 }}
  http-request deny deny_status 405 if {{ method CONNECT TRACE }}
  http-request del-header _ -m sub
  http-request del-header x-forwarded- -m beg
  http-request del-header forwarded
  http-request del-header x-real-ip
  http-request del-header proxy
  http-request set-var(txn.host) req.fhdr(host),field(1,:),lower,rtrim(.)
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.fhdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  use_backend %[var(txn.host),map({settings.map_path},b_none)]
"""

_SLOT_DEFAULTS: Final = """\
defaults slot from base
  balance roundrobin
  # A refused connection is tried again after `timeout connect`: an app has about a second and a half to come back.
  retries 10
  option redispatch 1
  retry-on conn-failure empty-response
  http-request disable-l7-retry unless METH_GET || METH_OPTIONS
  http-request return status 503 content-type text/plain hdr retry-after 1 string "enjin: the app has no live instance\\n" if { nbsrv lt 1 }
"""
