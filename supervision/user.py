"""Strategy user: a locked-down UNIX user, without a mount namespace.

Owns the order in which such a process gives up its rights: own network namespace, own uid, no capability, landlock, system call filter.
Paths
that a jail shows at fixed places (/app, /home/app) are the host's here, so programs are started by path, not by a script's first line.
May import: supervision.{confinement,driver,kernel,landlock,plain,probe,seccomp,steps,strategy}.
"""

from __future__ import annotations

from typing import Final

from supervision import kernel, landlock, links, plain, seccomp
from supervision.confinement import Child, Held, become
from supervision.driver import Capabilities
from supervision.jail import files
from supervision.probe import probe_user
from supervision.steps import BadStep, NodeSpec, Unsupported, Verdict
from supervision.strategy import START_S, Launched, Strategy

READABLE: Final = ("/usr", "/etc/hosts", "/etc/nsswitch.conf", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
WRITABLE: Final = ("/dev/null", "/dev/zero", "/dev/full")


class User(Strategy):
    """A uid, a network namespace, landlock, a system call filter and control groups."""

    NAME = "user"
    capabilities = Capabilities(sockets_passed=True, own_network=True, own_root=False, limits=True)

    def probe(self) -> Verdict:
        return probe_user(self.shop.config.privileged)

    def check(self, spec: NodeSpec) -> None:
        if self.shop.groups is None:
            raise Unsupported("strategy user needs hands to be root", hint="use strategy process")
        if spec.purpose == "ring1" or spec.outgoing:
            raise BadStep(f"strategy user cannot run a {spec.purpose} node, nor give it a way out")
        if landlock.abi() == 0:
            raise Unsupported("this kernel has no landlock", hint="use strategy jail")
        self.shop.check_uids(spec.uid, spec.uid)

    async def launch(self, spec: NodeSpec, listeners: dict[str, int]) -> Launched:
        shop, groups = self.shop, self.shop.groups
        if groups is None:
            raise Unsupported("strategy user needs hands to be root", hint="use strategy process")
        table = plain.places(shop, spec)
        writable = [table["/home/app"], *(table[m.target] for m in spec.mounts if m.writable), *WRITABLE]
        readable = [*READABLE, *files.plain_directories(), *files.shown(), *table.values()]
        filters = shop.filters()
        groups.create(spec.node, spec.limits)

        def confine(held: Held) -> None:
            kernel.unshare(kernel.NEWNET)
            held.say("unshared")
            held.wait()
            kernel.drop_bounding()
            become(spec.uid)
            landlock.restrict(readable, writable)
            seccomp.install(filters)

        async def prepare(child: Child) -> None:
            groups.attach(spec.node, child.pid)
            child.go()
            await child.said(START_S)
            inside = f"/proc/{child.pid}/ns/net"
            if spec.interface is not None:
                await links.attach(self.shop, spec, inside)
            else:
                await shop.worker.call("loopback.up", inside=inside)
            child.go()

        identity, status = await plain.launch_plain(shop, spec, listeners, table, confine, prepare)
        version = landlock.abi()
        words = f"a uid and a network namespace of its own; landlock ABI {version}; system call filter; control groups"
        return Launched(identity, status, words if version >= 6 else f"{words}; other processes' names can be seen")
