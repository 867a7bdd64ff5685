"""Find out what a source tree is, and how to start it when its author did not say.

Owns the guess. Reads files, parses Python with ``ast`` and never imports or runs anything of the app's. Everything guessed is
said in ``notes``. Does not install anything (``build``).

INV-PKG-7: a guess is made only when there is exactly one thing to guess.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from enjin.errors import Refused
from ring2.packaging.callables import Callable, find_callables, packages
from ring2.packaging.procfile import BYTES_MAX, parse_procfile

SERVE: Final = ".enjin/serve"
_ASGI_LINES: Final = {
    "uvicorn": "uvicorn {factory}--host 0.0.0.0 --port $PORT {target}",
    "hypercorn": "hypercorn --bind 0.0.0.0:$PORT {target}",
    "daphne": "daphne -b 0.0.0.0 -p $PORT {target}",
}
_STATIC_ROOTS: Final = (".", "public", "dist", "_site")


class NothingRecognised(Refused):
    """There is neither a Procfile nor anything that enjin knows how to start."""

    code = "E-PKG-021"
    remedy = "add a Procfile with a line such as `web: ./serve --port $PORT`"


class Ambiguous(Refused):
    """There are several things that could be started, and no Procfile says which."""

    code = "E-PKG-022"
    remedy = "add a Procfile that says which, for example `web: gunicorn app:app`"


class NoServer(Refused):
    """The app needs a server that its requirements do not name."""

    code = "E-PKG-023"
    remedy = "add uvicorn to the requirements"


class BadProject(Refused):
    """A file that describes the project cannot be read."""

    code = "E-PKG-024"


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a tree is."""

    language: str
    processes: dict[str, str]
    notes: list[str] = field(default_factory=list)
    requirements: tuple[str, ...] = ()
    """Arguments for pip; empty when there is nothing to install."""
    install_project: bool = False
    serve: bool = False
    """Whether the processes use our own server, which then becomes a part of the release."""


def recognise(tree: Path) -> Recognised:
    """Return what *tree* is and which processes it has.

    Raises:
        BadProcfile: See ``procfile``.
        NothingRecognised, Ambiguous, NoServer, BadProject: See the classes.
    """
    procfile = read_source(tree, "Procfile", BYTES_MAX + 1)
    processes = parse_procfile(procfile) if procfile is not None else {}
    notes = [] if not processes or "web" in processes else ["there is no web process: the app gets no URL"]
    root = _static_root(tree)
    # A site of files may have a script that makes it; Python is what runs only when there is something to run.
    if is_python(tree) and (processes or not root or find_callables(tree)):
        return _python(tree, processes, notes)
    if processes:
        return Recognised("static" if root else "other", processes, notes)
    if root:
        said = f"no Procfile: the files beside {'index.html' if root == '.' else f'{root}/index.html'} are served"
        return Recognised("static", {"web": f"python -I -S {SERVE} --static {root}"}, [said], serve=True)
    raise NothingRecognised("there is no Procfile, and neither Python nor an index.html was found")


def is_python(tree: Path) -> bool:
    """Return whether *tree* holds a Python app."""
    if any(_is_file(tree / name) for name in ("requirements.txt", "setup.py", "manage.py")):
        return True
    if _is_file(tree / "pyproject.toml") and "project" in _pyproject(tree):
        return True
    return any(name.endswith(".py") and _is_file(tree / name) for name in os.listdir(tree)) or bool(packages(tree))


def read_source(tree: Path, name: str, limit: int = 1 << 20) -> bytes | None:
    """Return the first *limit* bytes of the regular file *name* at the top of *tree*; None when there is none."""
    path = tree / name
    if not _is_file(path):
        return None
    with open(path, "rb") as file:
        return file.read(limit)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _python(tree: Path, processes: dict[str, str], notes: list[str]) -> Recognised:
    requirements, names, install, said = _requirements(tree)
    notes = notes + said
    serve = False
    if not processes:
        line, reason, serve = _guess(tree, names)
        processes, notes = {"web": line}, [*notes, reason]
    return Recognised("python", processes, notes, requirements, install, serve)


def _requirements(tree: Path) -> tuple[tuple[str, ...], set[str], bool, list[str]]:
    """Return pip's arguments, the names of the distributions, whether the project itself is installed, and notes."""
    text = read_source(tree, "requirements.txt")
    project = _pyproject(tree)
    if text is not None:
        lines = text.decode("utf-8", "replace").splitlines()
        wanted = [line for line in (line.split("#", 1)[0].strip() for line in lines) if line]
        notes = ["requirements.txt is used, pyproject.toml is not"] if "project" in project else []
        return ("--requirement", "requirements.txt") if wanted else (), _distributions(wanted), False, notes
    if ("build-system" in project and "project" in project) or "poetry" in project.get("tool", {}) or _is_file(tree / "setup.py"):
        return (), _distributions(_dependencies(project)), True, []
    found = _dependencies(project)
    notes = ["pyproject.toml has no [build-system]: its dependencies are installed, the project itself is not"] if found else []
    return tuple(found), _distributions(found), False, notes


def _pyproject(tree: Path) -> dict[str, Any]:
    data = read_source(tree, "pyproject.toml")
    if data is None:
        return {}
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadProject(f"pyproject.toml does not parse: {str(error)[:120]}") from error


def _dependencies(project: dict[str, Any]) -> list[str]:
    section = project.get("project", {})
    found = section.get("dependencies", []) if isinstance(section, dict) else []
    if not isinstance(found, list) or not all(isinstance(line, str) and line.strip() and not line.startswith("-") for line in found):
        raise BadProject("pyproject.toml: project.dependencies is not a list of requirements")
    return found


def _distributions(lines: list[str]) -> set[str]:
    """Return the normalised names that the requirements *lines* start with (PEP 503), and uvicorn where an extra brings it."""
    names = set()
    for line in lines:
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^]]*\])?", line)
        if match:
            names.add(re.sub(r"[-_.]+", "-", match[1]).lower())
            if match[1].lower() == "fastapi" and match[2] and re.search(r"standard|all", match[2]):
                names.add("uvicorn")
    return names


def _static_root(tree: Path) -> str:
    for root in _STATIC_ROOTS:
        if _is_file(tree / root / "index.html"):
            return root
    return ""


def _guess(tree: Path, names: set[str]) -> tuple[str, str, bool]:
    """Return the web line, what to say about it, and whether it uses our own server."""
    found = find_callables(tree, prefer_asgi="uvicorn" in names and "gunicorn" not in names)
    if not found:
        raise NothingRecognised("there is no Procfile, and no module at the top holds a WSGI or ASGI application called app or application")
    if len(found) > 1:
        raise Ambiguous(f"there is no Procfile, and there are {len(found)} applications: {', '.join(one.shown for one in found[:5])}")
    only = found[0]
    if only.protocol == "asgi":
        return _asgi_line(only, names)
    if "gunicorn" in names:
        return f"gunicorn {_quoted(only.target)}", f"no Procfile: guessed the WSGI application {only.shown}, served by gunicorn", False
    line = f"python {SERVE} {_quoted(only.target)}"
    return line, f"no Procfile: guessed the WSGI application {only.shown}, served by enjin's own small server (add gunicorn for more)", True


def _asgi_line(only: Callable, names: set[str]) -> tuple[str, str, bool]:
    for server, line in _ASGI_LINES.items():
        if server in names:
            factory = "--factory " if only.factory else ""
            target = only.target.removesuffix("()")
            said = f"no Procfile: guessed the ASGI application {only.shown}, served by {server}"
            return line.format(target=target, factory=factory), said, False
    raise NoServer(f"the ASGI application {only.shown} needs a server, and the requirements name none of {', '.join(_ASGI_LINES)}")


def _quoted(target: str) -> str:
    return f"'{target}'" if "(" in target else target
