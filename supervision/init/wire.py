"""What a control socket carries: one JSON object per datagram, and refusals.

Owns reading and writing JSON by the C half of `json`, the checks of a request's fields, and prctl. Knows no service.
May import: the standard library's C modules.
"""

import _ctypes
import _json
import _signal  # type: ignore[import-not-found]

DATAGRAM = 65536
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 36, 38
_PRCTL = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]


class Refusal(Exception):
    """A request that is not carried out: ``Refusal(code, message)``.

    Codes: ``invalid`` (malformed), ``unknown`` (no such thing), ``forbidden`` (not for this control), ``stale`` (an older
    generation), ``busy`` (not now), ``exists`` (held already).
    """


class _Shape:
    """What `_json.make_scanner` reads of a decoder."""

    strict, object_hook, object_pairs_hook, parse_float, parse_int, parse_constant = True, None, None, float, int, float


_scan = _json.make_scanner(_Shape)  # type: ignore[arg-type]
_quote = _json.encode_basestring_ascii
_encode = _json.make_encoder(None, repr, _quote, None, ":", ",", False, False, False)


def dumps(value: object) -> bytes:
    """Return *value* as JSON in ASCII."""
    return "".join(_encode(value, 0)).encode()


def loads(data: bytes) -> dict:
    """Return the one JSON object in *data*. Raises: Refusal."""
    try:
        line = data.decode().strip()
        value, end = _scan(line, 0)
    except (ValueError, StopIteration, RecursionError):
        raise Refusal("invalid", "not JSON") from None
    if end != len(line) or not isinstance(value, dict):
        raise Refusal("invalid", "not one JSON object")
    return value


def quoted_size(value: str) -> int:
    """Return how many bytes *value* takes in JSON."""
    return len(_quote(value))


def text(request: dict, name: str, default: str | None = None) -> str:
    """Return a field that is text without NUL. Raises: Refusal."""
    value = request.get(name, default)
    if type(value) is not str or "\0" in value:
        raise Refusal("invalid", f"{name} must be text")
    return value


def number(request: dict, name: str, default: int | None = None, low: int = 0, high: int = 1 << 53) -> int:
    """Return a field that is a whole number in low..high. Raises: Refusal."""
    value = request.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise Refusal("invalid", f"{name} must be a number in {low}..{high}")
    return value


def flag(request: dict, name: str, default: bool) -> bool:
    """Return a field that is true or false. Raises: Refusal."""
    value = request.get(name, default)
    if type(value) is not bool:
        raise Refusal("invalid", f"{name} must be true or false")
    return value


def texts(request: dict, name: str) -> list[str]:
    """Return a field that is a list of texts without NUL; absent means empty. Raises: Refusal."""
    value = request.get(name, [])
    if type(value) is not list or not all(type(one) is str and "\0" not in one for one in value):
        raise Refusal("invalid", f"{name} must be a list of texts")
    return value


def pairs(request: dict, name: str) -> dict[str, str]:
    """Return a field that maps texts to texts, none with NUL; absent means empty. Raises: Refusal."""
    value = request.get(name, {})
    if type(value) is not dict or not all(type(one) is str and "\0" not in one for item in value.items() for one in item):
        raise Refusal("invalid", f"{name} must map texts to texts")
    return value


def placed(spec: dict, places: dict[str, str]) -> dict:
    """Return the service *spec* with the paths that a jail would show at fixed places led to where they are; longest place first.

    In ``cwd``, in the words of ``argv`` that are paths, and in the parts of variables that are lists of paths, such as PATH.
    """
    order = sorted(places, key=len, reverse=True)

    def lead(word: str) -> str:
        for place in order:
            if word == place or word.startswith(place + "/"):
                return places[place] + word[len(place) :]
        return word

    found = dict(spec, argv=[lead(word) for word in texts(spec, "argv")], cwd=lead(text(spec, "cwd", "/")))
    found["env"] = {key: ":".join([lead(word) for word in value.split(":")]) for key, value in pairs(spec, "env").items()}
    return found


def signal_number(request: dict, name: str, default: int) -> int:
    """Return a field that is a signal, by number or by name as in ``"SIGTERM"``. Raises: Refusal."""
    value = request.get(name, default)
    if type(value) is str and value.startswith("SIG") and not value.startswith("SIG_"):
        value = getattr(_signal, value, None)
    if value is None or type(value) is bool or not isinstance(value, int) or not 0 < value < _signal.NSIG:
        raise Refusal("invalid", f"{name} must be a signal")
    return int(value)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Raises: OSError."""
    if _ctypes.call_cdeclfunction(_PRCTL, (option, value, 0, 0, 0)) != 0:
        raise OSError(1, f"prctl {option}")
