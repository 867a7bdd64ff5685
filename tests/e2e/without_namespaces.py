"""``without_namespaces.py UID PROGRAM…``: run a program as UID where no user namespace can be made.

Owns nothing else. It makes one user namespace in which every uid is itself, sets the number of further ones to none, and gives up its
rights: what `/proc/sys/user/max_user_namespaces` set to 0 does for a whole machine. Needs root.
"""

import ctypes
import os
import sys

CLONE_NEWUSER = 0x1000_0000
EVERY_ID = "0 0 4294967295"


def main() -> int:
    """Return the program's exit status."""
    uid, program = int(sys.argv[1]), sys.argv[2:]
    made, begin = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
            os._exit(126)
        os.write(made[1], b"+")
        os.read(begin[0], 1)
        with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
            file.write("0")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.execvp(program[0], program)
    os.close(made[1])
    if os.read(made[0], 1):
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write(EVERY_ID)
        os.write(begin[1], b"+")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    raise SystemExit(main())
