"""What a tree is, and how it is started when nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring2.packaging.recognise import Ambiguous, BadProject, NoServer, NothingRecognised, Recognised, recognise

FLASK = "from flask import Flask\napp = Flask(__name__)\n"
FASTAPI = "from fastapi import FastAPI\napp = FastAPI()\n"
WSGI = "def application(environ, start_response):\n    return []\n"
OWN = "python .enjin/serve "


def write(root: Path, files: dict[str, str]) -> Recognised:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return recognise(root)


GUESSES = {
    "function": ({"app.py": WSGI}, OWN + "app:application"),
    "function called app": ({"main.py": "def app(environ, start_response): ...\n"}, OWN + "main:app"),
    "flask": ({"app.py": FLASK, "requirements.txt": "flask\n"}, OWN + "app:app"),
    "flask with gunicorn": ({"app.py": FLASK, "requirements.txt": "Flask==3.0\ngunicorn ; python_version>'3'\n"}, "gunicorn app:app"),
    "documentation's hello.py": ({"hello.py": FLASK}, OWN + "hello:app"),
    "factory": ({"app.py": "import flask\ndef create_app(config=None): ...\n"}, OWN + "'app:create_app()'"),
    "factory in a package": ({"flaskr/__init__.py": "import flask\ndef create_app(): ...\n"}, OWN + "'flaskr:create_app()'"),
    "wsgi.py stands for what it imports": ({"app.py": FLASK, "wsgi.py": "from app import app\n"}, OWN + "wsgi:app"),
    "wsgi.py calls a factory": ({"s/__init__.py": "", "wsgi.py": "from s import create_app\napp = create_app()\n"}, OWN + "wsgi:app"),
    "two names of one": ({"app.py": FLASK + "application = app\n"}, OWN + "app:application"),
    "not when it is main": ({"app.py": FLASK, "main.py": "if __name__ == '__main__':\n    app = Flask('x')\n"}, OWN + "app:app"),
    "in try": ({"app.py": "try:\n    app = Bottle()\nfinally:\n    print()\n"}, OWN + "app:app"),
    "falcon": ({"app.py": "import falcon\napp = falcon.App()\n"}, OWN + "app:app"),
    "asgi": ({"main.py": FASTAPI, "requirements.txt": "fastapi\nuvicorn[standard]\n"}, "uvicorn --host 0.0.0.0 --port $PORT main:app"),
    "asgi by an extra": ({"main.py": FASTAPI, "requirements.txt": "fastapi[standard]\n"}, "uvicorn --host 0.0.0.0 --port $PORT main:app"),
    "asgi function": (
        {"asgi.py": "async def app(scope, receive, send): ...\n", "requirements.txt": "hypercorn"},
        "hypercorn --bind 0.0.0.0:$PORT asgi:app",
    ),
    "django": ({"manage.py": "", "s/__init__.py": "", "s/wsgi.py": "application = f()\n"}, OWN + "s.wsgi:application"),
    "a script beside a site": ({"index.html": "<p>", "make.py": "print('x')\n"}, "python -I -S .enjin/serve --static ."),
    "static": ({"index.html": "<p>"}, "python -I -S .enjin/serve --static ."),
    "static below": ({"public/index.html": "<p>"}, "python -I -S .enjin/serve --static public"),
}


@pytest.mark.parametrize("case", GUESSES)
def test_single_candidate_is_guessed_and_said(tmp_path: Path, case: str) -> None:
    """Exactly one thing to start: it is started, and a note says what was guessed."""
    files, line = GUESSES[case]
    found = write(tmp_path, files)
    assert found.processes == {"web": line}
    assert any("no Procfile" in note for note in found.notes)
    assert found.serve == (".enjin/serve" in line)


def test_django_prefers_asgi_only_with_its_server(tmp_path: Path) -> None:
    """A project has both callables: WSGI, unless only uvicorn is there to serve it."""
    project = {"manage.py": "", "s/__init__.py": "", "s/wsgi.py": "application = f()\n", "s/asgi.py": "application = f()\n"}
    assert write(tmp_path, project).processes["web"].endswith("s.wsgi:application")
    assert write(tmp_path, {"requirements.txt": "django\nuvicorn\n"}).processes["web"].endswith("s.asgi:application")


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({}, NothingRecognised),
        ({"notes.txt": "x"}, NothingRecognised),
        ({"tool.py": "print('x')\n"}, NothingRecognised),
        ({"app.py": "def app(:\n"}, NothingRecognised),
        ({"app.py": "app = " + "(" * 5_000 + "\n"}, NothingRecognised),
        ({"app.py": "raise SystemExit\napp = 3\n"}, NothingRecognised),
        ({"app.py": "def app(x): ...\n"}, NothingRecognised),
        ({"app.py": FLASK, "main.py": FLASK}, Ambiguous),
        ({"a/__init__.py": FLASK, "b/__init__.py": FLASK}, Ambiguous),
        ({"main.py": FASTAPI, "requirements.txt": "fastapi\n"}, NoServer),
        ({"pyproject.toml": "[project\n"}, BadProject),
        ({"pyproject.toml": "[project]\ndependencies = 'flask'\n"}, BadProject),
        ({"pyproject.toml": "[project]\ndependencies = ['--index-url=http://evil/']\n", "app.py": WSGI}, BadProject),
    ],
)
def test_doubt_is_refused_with_its_own_error(tmp_path: Path, files: dict[str, str], error: type[Exception]) -> None:
    """Nothing, or more than one thing, to start is refused and says what to do."""
    with pytest.raises(error) as caught:
        write(tmp_path, files)
    assert "\n" not in str(caught.value)


def test_nothing_is_imported(tmp_path: Path) -> None:
    """Recognising reads the app and does not run it."""
    write(tmp_path, {"app.py": f"open({str(tmp_path / 'ran')!r}, 'w')\n" + WSGI})
    assert not (tmp_path / "ran").exists()


def test_procfile_wins(tmp_path: Path) -> None:
    """What the author says is not second-guessed, and a missing web process is said."""
    found = write(tmp_path, {"Procfile": "worker: python w.py\n", "app.py": FLASK})
    assert (found.language, found.processes, found.serve) == ("python", {"worker": "python w.py"}, False)
    assert found.notes == ["there is no web process: the app gets no URL"]


def test_other_language_is_left_as_it_is(tmp_path: Path) -> None:
    """A Procfile with anything else installs nothing."""
    found = write(tmp_path, {"Procfile": "web: ./serve $PORT\n", "package.json": "{}"})
    assert (found.language, found.requirements, found.install_project) == ("other", (), False)


def test_requirements_of_each_kind(tmp_path: Path) -> None:
    """An empty requirements.txt installs nothing; pyproject's dependencies do; a build system installs the project itself."""
    assert write(tmp_path, {"app.py": WSGI, "requirements.txt": "# none\n\n"}).requirements == ()
    assert write(tmp_path, {"requirements.txt": "flask # web\n"}).requirements == ("--requirement", "requirements.txt")
    (tmp_path / "requirements.txt").unlink()
    assert write(tmp_path, {"pyproject.toml": "[tool.ruff]\n"}).requirements == ()
    plain = write(tmp_path, {"pyproject.toml": "[project]\nname='x'\ndependencies=['flask>=3']\n"})
    assert (plain.requirements, plain.install_project) == (("flask>=3",), False)
    assert "build-system" in plain.notes[0]
    built = write(tmp_path, {"pyproject.toml": "[project]\nname='x'\n[build-system]\nrequires=[]\n"})
    assert (built.requirements, built.install_project) == ((), True)
