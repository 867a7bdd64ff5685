"""Whether a journal's server can be used by whoever runs this: ``python -m bus.journal.reach URL``, one line and status 1 when not.

Root reaches what a daemon's uid does not: a socket in a closed folder, a password file of somebody else's. Imports ``postgres``.
"""

from __future__ import annotations

import sys

from bus.journal.postgres import check_address
from enjin.errors import EnjinError


def main() -> int:
    """Try it."""
    try:
        check_address(sys.argv[1])
    except EnjinError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
