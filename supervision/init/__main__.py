"""Where the interpreter starts init: finds the package without site or PYTHONPATH, then leaves the path as it was."""

import os
import sys


def start() -> int:
    """Run init and return its exit status."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from supervision.init.start import main

    del sys.path[0]
    return main(sys.argv)


if __name__ == "__main__":
    sys.exit(start())
