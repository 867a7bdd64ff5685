"""``python -m ring2.packaging --source ARCHIVE --out DIRECTORY``: one build, from archive to tree.

Owns the order of the stages and what is left behind: ``OUT/tree`` and ``OUT/build.json``, or ``OUT/error.json`` and no tree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

from enjin.errors import EnjinError, code_of
from ring2.packaging.build import build

LINE: Final = 4_000


def main(arguments: list[str] | None = None) -> int:
    """Build, and return the exit status: 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="ring2.packaging", description="Build a release from a source archive.")
    parser.add_argument("--source", type=Path, required=True, help="a plain tar archive")
    parser.add_argument("--out", type=Path, required=True, help="a writable directory without a tree in it")
    parser.add_argument("--digest", default="", help="SHA-256 that the archive must have")
    parser.add_argument("--app-root", default="/app", help="where the tree will be mounted when it runs")
    parser.add_argument("--deadline", type=float, default=600, help="seconds for installing dependencies")
    options = parser.parse_args(arguments)
    os.umask(0o022)
    started = time.monotonic()
    try:
        result = build(options.source, options.out, digest=options.digest, app_root=options.app_root, deadline_s=options.deadline)
    except (EnjinError, OSError) as error:
        return _fail(options.out, error)
    result["seconds"] = round(time.monotonic() - started, 3)
    write_json(options.out / "build.json", result)
    tell("build.json", result)
    return 0


def _fail(out: Path, error: EnjinError | OSError) -> int:
    """Remove the half-built tree, say why, and return the exit status."""
    shutil.rmtree(out / "tree", ignore_errors=True)
    message = " ".join(str(error).split())
    tail = error.details.get("tail", []) if isinstance(error, EnjinError) else []
    hint = error.hint if isinstance(error, EnjinError) else ""
    report = {"code": code_of(error), "message": message, "hint": hint, "tail": tail}
    try:
        write_json(out / "error.json", report)
    except OSError as again:
        print(f"cannot write error.json: {again.strerror}", file=sys.stderr)
    print(f"{report['code']} {message}", file=sys.stderr)
    tell("error.json", report)
    return 1


def tell(name: str, value: dict[str, Any]) -> None:
    """Say *value* on standard output too, in lines that a log keeps whole: whoever supervises reads it there."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    for start in range(0, len(text), LINE):
        print(f"{name}: {text[start : start + LINE]}", flush=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write *value* so that a reader sees all of it or no file."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value, sort_keys=True, ensure_ascii=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    raise SystemExit(main())
