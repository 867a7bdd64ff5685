"""Find the WSGI and ASGI applications of a tree by reading its Python, never by running it.

Owns the search. A file that does not parse holds no application. Same object under two names counts once: ``wsgi.py`` that
imports ``app`` from ``app.py`` stands for it.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILES: Final = ("wsgi.py", "asgi.py", "app.py", "main.py", "application.py")
NAMES: Final = ("application", "app")
FACTORIES: Final = ("create_app", "make_app")
SOURCE_BYTES_MAX: Final = 1 << 20
_WSGI_MAKERS: Final = {"Flask", "Bottle", "get_wsgi_application", "WSGIApplication", "default_app", "make_wsgi_app", "APIFlask"}
_ASGI_MAKERS: Final = {"FastAPI", "Starlette", "Quart", "Litestar", "get_asgi_application", "Sanic", "BlackSheep", "ProtocolTypeRouter"}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.py")


@dataclass(frozen=True, slots=True)
class Callable:
    """An application that a server can be told to serve."""

    module: str
    name: str
    protocol: str
    factory: bool = False
    file: str = ""

    @property
    def target(self) -> str:
        """What servers take: ``module:name``, with () for a factory."""
        return f"{self.module}:{self.name}{'()' if self.factory else ''}"

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.target} ({self.file})"


def find_callables(tree: Path, *, prefer_asgi: bool = False) -> list[Callable]:
    """Return the distinct applications of *tree*; of a Django project the one that its documentation says."""
    if (tree / "manage.py").is_file():
        names = ("asgi.py", "wsgi.py") if prefer_asgi else ("wsgi.py", "asgi.py")
        for name in names:
            django = [one for package in packages(tree) for one in _in_file(tree, f"{package}/{name}")]
            if django:
                return django
    found: list[Callable] = []
    imported: set[tuple[str, str]] = set()
    for file in FILES:
        found += _in_file(tree, file, imported)
    if not found:
        for package in packages(tree):
            found += _in_file(tree, f"{package}/__init__.py", imported)
    if not found:
        # Documentation calls the file hello.py, or after the project.
        for file in sorted(name for name in os.listdir(tree) if _MODULE.fullmatch(name) and name not in FILES):
            found += _in_file(tree, file, imported)
    # `app = create_app()` in wsgi.py makes the factory it imports a part of it, not a second application.
    return [one for one in found if (one.module, one.name) not in imported]


def packages(tree: Path) -> list[str]:
    """Return the names of the Python packages at the top of *tree*, tests not counted."""
    names = [name for name in sorted(os.listdir(tree)) if _IDENTIFIER.fullmatch(name) and name not in ("tests", "test")]
    return [name for name in names if (tree / name / "__init__.py").is_file()]


def _in_file(tree: Path, file: str, imported: set[tuple[str, str]] | None = None) -> list[Callable]:
    """Return the application in *file*, if any, and then add to *imported* what the file takes from other modules."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    body = _parse(tree / file)
    default = "asgi" if file.endswith("asgi.py") else "wsgi" if file.endswith("wsgi.py") else ""
    instances: dict[str, str] = {}
    factories: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    flavour = _flavour(body)
    for node in _module_level(body):
        if isinstance(node, ast.ImportFrom):
            taken |= _note_import(node, default or flavour, instances)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            _note_assignment(node, default, instances)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _note_function(node, default or flavour, instances, factories)
    found = [Callable(module, name, instances[name], file=file) for name in NAMES if name in instances]
    found += [Callable(module, name, factories[name], factory=True, file=file) for name in FACTORIES if name in factories]
    if found and imported is not None:
        imported |= taken
    return found[:1]


def _parse(path: Path) -> list[ast.stmt]:
    try:
        if not path.is_file() or path.stat().st_size > SOURCE_BYTES_MAX:
            return []
        return ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _module_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements that importing runs: those of the module, and of ``if`` and ``try`` but not ``__main__``."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and "__name__" not in ast.unparse(node.test):
            found += _module_level(node.body) + _module_level(node.orelse)
        elif isinstance(node, ast.Try):
            found += _module_level(node.body)
        else:
            found.append(node)
    return found


def _flavour(body: list[ast.stmt]) -> str:
    """Return the protocol that the imported frameworks speak, empty when they do not tell."""
    modules = set()
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
    if modules & {"flask", "bottle", "falcon", "pyramid", "django", "werkzeug"}:
        return "wsgi"
    return "asgi" if modules & {"fastapi", "starlette", "quart", "litestar", "sanic"} else ""


def _note_import(node: ast.ImportFrom, protocol: str, instances: dict[str, str]) -> set[tuple[str, str]]:
    for alias in node.names:
        if (alias.asname or alias.name) in NAMES and protocol:
            instances[alias.asname or alias.name] = protocol
    return {(node.module, alias.name) for alias in node.names} if node.module and node.level == 0 else set()


def _note_assignment(node: ast.Assign | ast.AnnAssign, default: str, instances: dict[str, str]) -> None:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    protocol = _protocol_of(node.value, default, instances)
    for target in targets:
        if isinstance(target, ast.Name) and target.id in NAMES and protocol:
            instances[target.id] = protocol


def _protocol_of(value: ast.expr | None, default: str, instances: dict[str, str]) -> str:
    if isinstance(value, ast.Name):
        return instances.get(value.id, default)
    if not isinstance(value, ast.Call):
        return ""
    called = value.func.attr if isinstance(value.func, ast.Attribute) else value.func.id if isinstance(value.func, ast.Name) else ""
    if called in _ASGI_MAKERS:
        return "asgi"
    if called in _WSGI_MAKERS:
        return "wsgi"
    # `falcon.App()` and `app = create_app()` do not tell by name: WSGI, until the file's name says otherwise.
    return default or ("wsgi" if called in FACTORIES or called in ("App", "API") else "")


def _note_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, flavour: str, instances: dict[str, str], factories: dict[str, str]
) -> None:
    arguments = node.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    if node.name in NAMES:
        if isinstance(node, ast.AsyncFunctionDef) and required == 3:
            instances[node.name] = "asgi"
        elif isinstance(node, ast.FunctionDef) and required == 2:
            instances[node.name] = "wsgi"
    elif node.name in FACTORIES and isinstance(node, ast.FunctionDef) and required == 0:
        factories[node.name] = flavour or "wsgi"
