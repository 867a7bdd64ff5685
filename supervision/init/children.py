"""The children: what is wanted, what runs, how it ended, and when it runs again.

Owns services, forking, reaping, restarts and log pipes.
May import: init's handles, log, loop, wire.
"""

import _signal  # type: ignore[import-not-found]
import fcntl
import os
import resource
import select
import sys
import time

from supervision.init.failpoints import failpoint
from supervision.init.handles import Handles
from supervision.init.log import Log
from supervision.init.loop import Loop
from supervision.init.wire import DATAGRAM, PR_SET_NO_NEW_PRIVS, Refusal, flag, number, pairs, prctl, signal_number, text, texts

SERVICES_MAX = 256
BACKOFF_S, BACKOFF_S_MAX, HEALTHY_S, EXEC_S = 0.05, 5.0, 10.0, 5.0
SIGKILL, SIGTERM = int(_signal.SIGKILL), int(_signal.SIGTERM)
FIRST_HIGH, DESCRIPTORS_END = 256, 1 << 20  # a child's own descriptors lie below the first


class Service:
    """One child that is wanted, as its specification says, and what became of it. Raises: Refusal."""

    def __init__(self, spec: dict) -> None:
        self.name, self.generation = text(spec, "name"), number(spec, "generation", 1)
        self.argv, self.env, self.cwd = texts(spec, "argv"), pairs(spec, "env"), text(spec, "cwd", "/")
        own = number(spec, "uid", -1, -1, 1 << 32) == -1
        self.uid = os.getuid() if own else spec["uid"]
        self.gid = number(spec, "gid", -1, -1, 1 << 32)
        if self.gid == -1:
            self.gid = os.getgid() if own else self.uid
        self.groups = [number({"groups": one}, "groups") for one in spec.get("groups", ())]
        self.fds = {number({"fds": int(key)}, "fds", None, 0, FIRST_HIGH - 1): handle for key, handle in pairs(spec, "fds").items()}
        self.always, self.log = text(spec, "restart", "always") == "always", flag(spec, "log", True)
        self.umask, self.files = number(spec, "umask", 0o077, 0, 0o777), number(spec, "files", 0)
        self.nice, self.signal = number(spec, "nice", 0, -20, 19), signal_number(spec, "signal", SIGTERM)
        self.no_new_privs = flag(spec, "no_new_privs", False)
        self.sweep = text(spec, "leftovers", "keep") == "kill"  # its process group ends with it
        if not self.name or not self.argv or not self.argv[0].startswith("/"):
            raise Refusal("invalid", "a service needs a name, and an absolute path in argv")
        self.pid, self.restarts, self.started_us, self.error, self.wanted = 0, 0, 0, "", True
        self.status: int | None = None
        self.started = self.delay = 0.0
        self.waiters: list = []  # called with the view when it has ended

    def view(self) -> dict:
        """Return what may be shown of it: never its environment or arguments."""
        names = ("name", "generation", "pid", "status", "uid", "restarts", "wanted", "started_us", "error")
        return {name: getattr(self, name) for name in names}


class Children:
    """All services and their logs; ``on_event`` is called with each event."""

    def __init__(self, loop: Loop, handles: Handles) -> None:
        self.loop, self.handles = loop, handles
        self.on_event: object = None
        self.services: dict[str, Service] = {}
        self.logs: dict[str, Log] = {}
        self.readers: dict[str, list] = {}  # who waits for more lines of a log: (after, function)
        self.ending = False

    def spawn(self, service: Service) -> bool:
        """Start *service*; False when this generation is here already. Raises: Refusal, OSError (what the child met)."""
        old = self.services.get(service.name)
        if old and old.generation == service.generation:
            return False
        if old and old.generation > service.generation:
            raise Refusal("stale", f"{service.name} is at generation {old.generation}")
        if old and old.pid:
            raise Refusal("busy", f"{service.name} still runs as generation {old.generation}")
        if self.ending or (not old and len(self.services) >= SERVICES_MAX):
            raise Refusal("busy", "init is ending, or has too many services")
        self.launch(service)
        if old:
            old.wanted = False
        self.services[service.name] = service
        return True

    def wish(self, spec: dict) -> None:
        """Take a service from init's own specification: one that does not start is tried again."""
        service = Service(spec)
        self.services[service.name] = service
        self._run(service)

    def start(self, service: Service) -> None:
        """Start a service that is here but does not run. Raises: OSError."""
        service.wanted, service.delay = True, 0.0
        self.launch(service)

    def launch(self, service: Service) -> None:
        """Fork and execute *service*. Raises: Refusal, OSError."""
        if service.pid or self.ending:
            return
        table = {key: self.handles.descriptor(handle) for key, handle in service.fds.items()}
        result, report = os.pipe()
        output = os.pipe() if service.log else None
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())  # none may reach our handlers in the child
        try:
            failpoint("init.fork")
            pid = os.fork()
            if pid == 0:
                become(service, table, report, output[1] if output else 2)
        except OSError:
            os.close(result)
            if output:
                os.close(output[0])
            raise
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            os.close(report)
            if output:
                os.close(output[1])
        waiting = select.poll()
        waiting.register(result, select.POLLIN)
        said = os.read(result, 512).decode() if waiting.poll(EXEC_S * 1000) else "110 not executed in time"
        os.close(result)
        if said:
            send_signal(pid, SIGKILL)
            os.waitpid(pid, 0)
            if output:
                os.close(output[0])
            code, _, reason = said.partition(" ")
            raise OSError(int(code), reason)
        service.pid, service.status, service.error, service.started = pid, None, "", time.monotonic()
        service.started_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        if output:
            self._collect(service.name, output[0])
        self._say("started", service, pid)

    def stop(self, service: Service, grace_ms: int, asked: int) -> None:
        """Ask *service* to end by signal *asked*, and make it after the grace time."""
        service.wanted, pid = False, service.pid
        if pid:
            send_signal(pid, asked)
            self.loop.later(f"kill {service.name}", grace_ms / 1000, lambda: self._kill(service, pid))

    def end(self, grace_ms: int) -> None:
        """Stop everything, and start nothing any more."""
        self.ending = True
        for service in self.services.values():
            self.stop(service, grace_ms, service.signal)

    def running(self) -> bool:
        """Say whether a service runs."""
        return any(service.pid for service in self.services.values())

    def reap(self) -> None:
        """Take the status of every child that has ended, our own or adopted."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            service = next((one for one in self.services.values() if one.pid == found.si_pid), None)
            if service and service.sweep:
                send_signal(-service.pid, SIGKILL)  # while it is a zombie its number is nobody else's
            status = os.waitstatus_to_exitcode(os.waitpid(found.si_pid, 0)[1])
            if service:
                self._ended(service, status)

    def forget(self, client: object) -> None:
        """Let nobody wait on behalf of *client* any more."""
        for service in self.services.values():
            service.waiters = [waiter for waiter in service.waiters if waiter.client is not client]
        for name, readers in self.readers.items():
            self.readers[name] = [reader for reader in readers if reader[1].client is not client]

    def _kill(self, service: Service, pid: int) -> None:
        if service.pid == pid:
            send_signal(-pid if service.sweep else pid, SIGKILL)

    def _say(self, event: str, service: Service, pid: int, **more: int) -> None:
        if callable(self.on_event):
            self.on_event({"event": event, "name": service.name, "pid": pid, "generation": service.generation, **more})

    def _run(self, service: Service) -> None:
        try:
            self.launch(service)
        except (OSError, Refusal) as error:
            service.error = str(error)
            sys.stderr.write(f"init: {service.name} does not start: {error}\n")
            self._ended(service, 127)

    def _ended(self, service: Service, status: int) -> None:
        pid, service.pid, service.status = service.pid, 0, status
        self._say("exited", service, pid, status=status)
        waiters, service.waiters = service.waiters, []
        for waiter in waiters:
            waiter(service.view())
        if not (service.always and service.wanted and not self.ending):
            return
        if pid and time.monotonic() - service.started >= HEALTHY_S:
            service.delay = 0.0
        wait, service.delay = service.delay, min(BACKOFF_S_MAX, service.delay * 2 or BACKOFF_S)
        service.restarts += 1
        self.loop.later(f"again {service.name}", wait, lambda: self._again(service))

    def _again(self, service: Service) -> None:
        if service.wanted and not service.pid and self.services.get(service.name) is service:
            self._run(service)

    def _collect(self, name: str, fd: int) -> None:
        """Read a log pipe as long as anybody holds its other end."""
        os.set_blocking(fd, False)
        log = self.logs.setdefault(name, Log())

        def readable(_: int) -> None:
            data = os.read(fd, DATAGRAM)
            log.feed(data)
            if not data:
                self.loop.off(fd)
                os.close(fd)
            readers, self.readers[name] = self.readers.get(name, []), []
            for after, function in readers:
                if log.last > after:
                    function(log.after(after))
                else:
                    self.readers[name].append((after, function))

        self.loop.on(fd, readable)


def close_except(kept: set[int], low: int) -> None:
    """Close every descriptor from *low* up that is not in *kept*."""
    for end in (*sorted(one for one in kept if one >= low), DESCRIPTORS_END):
        if low < end:  # an empty range would mean all of them
            os.closerange(low, end)
        low = end + 1


def send_signal(pid: int, number: int) -> None:
    """Signal a process, or a group as -pid; one that is gone is no matter."""
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        return


def take_identity(service: Service) -> None:
    """Become the service's user and groups. Raises: OSError."""
    if service.groups or (service.uid, service.gid) != (os.getuid(), os.getgid()):
        os.setgroups(service.groups)
        os.setresgid(service.gid, service.gid, service.gid)
        os.setresuid(service.uid, service.uid, service.uid)
    elif os.geteuid() == 0:
        try:
            os.setgroups([])
        except PermissionError:  # a user namespace that allows none: its maker has chosen the groups
            return


def become(service: Service, table: dict[int, int], report: int, output: int) -> None:
    """Turn this forked child into *service*; on failure write "ERRNO step: reason" to *report*. Never returns."""
    step = "signals"
    try:
        os.setsid()
        _signal.set_wakeup_fd(-1)
        for one in ("SIGCHLD", "SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE", "SIGXFSZ"):
            _signal.signal(getattr(_signal, one), _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        step = "descriptors"
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, FIRST_HIGH)
        table = {0: os.open("/dev/null", os.O_RDWR), 1: output, 2: output, **table}
        table = {key: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_HIGH) for key, fd in table.items()}
        for key, fd in table.items():
            os.dup2(fd, key)
        close_except({*table, report}, 0)
        step = "limits"
        os.umask(service.umask)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if service.files:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # not even root may pass it without CAP_SYS_RESOURCE
            files = service.files if most == resource.RLIM_INFINITY else min(service.files, most)
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        if service.nice:
            os.setpriority(os.PRIO_PROCESS, 0, service.nice)
        step = "identity"
        take_identity(service)
        step = f"directory {service.cwd}"
        os.chdir(service.cwd)
        if service.no_new_privs:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
        step = f"execute {service.argv[0]}"
        os.execve(service.argv[0], service.argv, service.env)
    except OSError as error:
        os.write(report, f"{error.errno} {step}: {error.strerror}".encode())
    except BaseException as error:  # a child must never run on as a second init
        os.write(report, f"22 {step}: {type(error).__name__}".encode())
    finally:
        os._exit(127)
