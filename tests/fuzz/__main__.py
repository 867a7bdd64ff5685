"""Fuzz: `python -m tests.fuzz [NAME…] [--seconds N] [--replay FILE]`; without NAME every target, as many at once as there are cores.

The corpus of a target lies in `.venv/fuzz/NAME` and grows from run to run. Exit status 1 when something was found: the bytes are kept
beside it, and the command that replays them is printed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS, attempt

PLACE = Path(sys.prefix) / "fuzz"
SECONDS = 600
TIMEOUT_S, MEMORY_MB, BYTES_MAX = 25, 2048, 70_000


def fuzz(name: str, seconds: int) -> tuple[str, bool, str]:
    """Fuzz target *name*; return it, whether nothing was found, and what was said last."""
    corpus = PLACE / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = {"max_total_time": seconds, "timeout": TIMEOUT_S, "rss_limit_mb": MEMORY_MB, "max_len": BYTES_MAX}
    options |= {"artifact_prefix": f"{PLACE}/{name}-"}
    words = [sys.executable, "-m", "tests.fuzz.one", name, str(corpus), *(f"-{key}={value}" for key, value in options.items())]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stderr.strip().splitlines()
    return name, done.returncode == 0, "\n".join(lines[-1:] if done.returncode == 0 else lines[-40:])


def main(arguments: list[str]) -> int:
    """Fuzz, or replay what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="./bootstrap fuzz")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target")
    parser.add_argument("--replay", type=Path, help="give the bytes of this file to NAME, once")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in TARGETS]
    if unknown or (options.replay and len(options.names) != 1):
        parser.error(f"no such target: {', '.join(unknown)}" if unknown else "--replay needs one NAME")
    if options.replay:
        attempt(options.names[0], options.replay.read_bytes())
        print(f"{options.names[0]}: nothing that is not declared")
        return 0
    found = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, clean, said in pool.map(lambda name: fuzz(name, options.seconds), options.names or list(TARGETS)):
            print(f"{name:14} {'nothing found' if clean else 'FOUND'}  {said}", flush=True)
            if not clean:
                found += 1
                for path in sorted(PLACE.glob(f"{name}-*")):
                    print(f"    replay: ./bootstrap fuzz {name} --replay {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
