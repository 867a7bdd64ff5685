"""The stages of a build: extract, recognise, install, compile.

Owns their order and what ``build.json`` says. Called by ``__main__`` in a jail, and directly by tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ring2.packaging.environment import APP_ROOT, make_environment
from ring2.packaging.extract import extract
from ring2.packaging.recognise import recognise


def build(source: Path, out: Path, *, digest: str = "", app_root: str = APP_ROOT, deadline_s: float = 600) -> dict[str, Any]:
    """Build the archive *source* into ``out/tree`` and return what ``build.json`` holds.

    ``language``: python, static or other. ``processes``: name to shell line, run with the tree as working directory.
    ``environment``: variables they need, paths beneath ``root``. ``notes``: what was guessed or is worth saying.

    Raises:
        Refused, StepFailed: With a code of their own; the tree may be half there.
    """
    tree = out / "tree"
    entries = extract(source, tree, digest=digest)
    say(f"extracted {len(entries)} files")
    found = recognise(tree)
    say(f"recognised {found.language}: {', '.join(found.processes)}")
    for note in found.notes:
        say(note)
    if found.requirements or found.install_project:
        say("installing requirements")
    environment = make_environment(tree, found, app_root=app_root, deadline_s=deadline_s)
    return {
        "version": 1,
        "language": found.language,
        "processes": found.processes,
        "environment": environment,
        "root": app_root,
        "notes": found.notes,
        "entries": len(entries),
        "bytes": sum(entry.size for entry in entries),
    }


def say(text: str) -> None:
    """Show one step of the build to whoever follows its output."""
    print(f"-----> {text}", flush=True)
