"""The system calls that a tenant's process may make: an allow list, compiled once and kept on disk.

Owns the list and its compilation by libseccomp. Two filters are stacked, and the kernel takes the stricter answer: `allowed`
answers "no such call" to whatever is not in the list; `refused` answers "not permitted" to known dangerous calls, and to single
arguments of allowed ones (a new namespace in clone, pushing characters into a terminal, device nodes). One filter cannot do both,
because a rule for a whole call swallows its rules for single arguments.

INV-SEC-1: clone3 is "no such call", since a filter cannot see its flags; libc falls back to clone.
INV-SEC-2: only the native architecture; any other calling convention ends the process.

May import: enjin, supervision.{kernel,steps}; `seccomp` (libseccomp) only to compile.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from enjin.host import read_bounded, write_atomic
from supervision import kernel
from supervision.steps import Unsupported

LIMIT: Final = 32_768
NAMESPACES: Final = (
    kernel.NEWNS,
    kernel.NEWCGROUP,
    kernel.NEWUTS,
    kernel.NEWIPC,
    kernel.NEWUSER,
    kernel.NEWPID,
    kernel.NEWNET,
    0x80,  # CLONE_NEWTIME
)
TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
FAMILIES: Final = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
NETLINK_ROUTE: Final = (16, 0)

FILES: Final = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir fchmod
fchmodat
fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd
getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr
llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice stat statfs
statx
symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
"""
PROCESSES: Final = """
alarm arch_prctl capget capset clone execve execveat exit exit_group fork get_robust_list getcpu getegid geteuid getgid getgroups getitimer
getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_tid_address setfsgid setfsuid setgid setgroups
setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack sysinfo tgkill times tkill uname
vfork wait4 waitid
"""
MEMORY_AND_TIME: Final = """
brk cachestat clock_getres clock_gettime clock_nanosleep futex futex_wait futex_wake futex_requeue futex_waitv getrandom gettimeofday
madvise
membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock munlockall munmap nanosleep pkey_alloc
pkey_free
pkey_mprotect process_mrelease remap_file_pages time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime map_shadow_stack
"""
TALK: Final = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 getpeername getsockname getsockopt io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit listen mq_getsetattr
mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 poll ppoll pselect6 recvfrom recvmmsg recvmsg select
semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown signalfd signalfd4 socketpair
"""
REFUSED: Final = """
acct add_key adjtimex bpf chroot clock_adjtime clock_settime create_module delete_module fanotify_init fanotify_mark finit_module fsconfig
fsmount fsopen fspick get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
kexec_load
keyctl lookup_dcookie mbind migrate_pages modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl
open_by_handle_at
open_tree perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace query_module quotactl quotactl_fd
reboot request_key set_mempolicy setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 unshare uselib userfaultfd ustat
vhangup vmsplice
"""
RING1_REFUSED: Final = """
acct add_key bpf delete_module finit_module init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_file_load
kexec_load
keyctl lookup_dcookie modify_ldt nfsservctl open_by_handle_at perf_event_open process_vm_readv process_vm_writev ptrace quotactl quotactl_fd
reboot request_key settimeofday swapoff swapon syslog userfaultfd uselib vhangup
"""


def allowed() -> tuple[str, ...]:
    """Return the names of the calls that are allowed, in order."""
    names = set((FILES + PROCESSES + MEMORY_AND_TIME + TALK).split()) - set(REFUSED.split())
    return tuple(sorted(names))


def programs(directory: Path) -> tuple[bytes, bytes]:
    """Return the two filters as BPF, compiled now if *directory* does not hold them.

    Raises:
        Unsupported: libseccomp is not there.
    """
    machine = os.uname()
    inputs = (allowed(), REFUSED, NAMESPACES, TERMINAL, FAMILIES, machine.machine, machine.release)
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()
    paths = [directory / f"seccomp-{key[:16]}-{name}.bpf" for name in ("allowed", "refused")]
    try:
        first, second = (read_bounded(path, LIMIT) for path in paths)
    except FileNotFoundError:
        first, second = _compile_allowed(), _compile_refused()
        directory.mkdir(parents=True, exist_ok=True)
        for path, program in zip(paths, (first, second), strict=True):
            write_atomic(path, program, mode=0o600)
    return first, second


def install(filters: tuple[bytes, bytes]) -> None:
    """Confine the caller for good; what it executes later too."""
    for program in filters:
        kernel.seccomp_filter(program)


def _library():  # type: ignore[no-untyped-def]
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise Unsupported(f"libseccomp cannot be used: {error}", hint="install the Debian package libseccomp2") from error
    return pyseccomp


def _compile_allowed() -> bytes:
    seccomp = _library()
    program = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    for name in allowed():
        _rule(program, seccomp.ALLOW, name)
    word = 0xFFFF_FFFF
    for family in FAMILIES:
        _rule(program, seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.MASKED_EQ, word, family))
    family, protocol = NETLINK_ROUTE
    route = (seccomp.Arg(0, seccomp.MASKED_EQ, word, family), seccomp.Arg(2, seccomp.MASKED_EQ, word, protocol))
    _rule(program, seccomp.ALLOW, "socket", *route)
    for persona in (0, word):
        _rule(program, seccomp.ALLOW, "personality", seccomp.Arg(0, seccomp.MASKED_EQ, word, persona))
    for name in REFUSED.split():
        _rule(program, seccomp.ERRNO(errno.EPERM), name)
    return _export(program)


def _compile_refused() -> bytes:
    seccomp = _library()
    program = seccomp.SyscallFilter(seccomp.ALLOW)
    denied = seccomp.ERRNO(errno.EPERM)
    for name in REFUSED.split():
        _rule(program, denied, name)
    for flag in NAMESPACES:
        _rule(program, denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    for request in TERMINAL:
        _rule(program, denied, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFF_FFFF, request))
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        _rule(program, denied, "mknod", seccomp.Arg(1, seccomp.MASKED_EQ, 0o170000, kind))
        _rule(program, denied, "mknodat", seccomp.Arg(2, seccomp.MASKED_EQ, 0o170000, kind))
    for name, position in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2)):
        _rule(program, denied, name, seccomp.Arg(position, seccomp.MASKED_EQ, stat.S_ISUID, stat.S_ISUID))
    return _export(program)


def ring1_program() -> bytes:
    """Return the filter of a whole ring 1 jail, or b"" without libseccomp: what not even its root needs, and exploits like."""
    try:
        seccomp = _library()
    except Unsupported:
        return b""
    program = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in RING1_REFUSED.split():
        _rule(program, seccomp.ERRNO(errno.EPERM), name)
    for request in TERMINAL:
        _rule(program, seccomp.ERRNO(errno.EPERM), "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFF_FFFF, request))
    return _export(program)


def _rule(program, action: int, name: str, *arguments: object) -> None:  # type: ignore[no-untyped-def]
    seccomp = _library()
    try:
        number = seccomp.resolve_syscall(seccomp.system_arch(), name)
    except (OSError, ValueError):
        return
    if number >= 0:
        program.add_rule(action, name, *arguments)


def _export(program) -> bytes:  # type: ignore[no-untyped-def]
    seccomp = _library()
    program.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read(LIMIT)
