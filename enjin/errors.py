"""The error tree: every failure that enjin reports, split by whose fault it is.

Owns the classes, the table of their codes and ``invariant``. Does not print, log or choose exit codes by itself:
``enjin.cli`` and ``enjin.daemon`` do, from the attributes here.

    EnjinError
      Refused         the asker's or a peer's fault: never retried, never a crash
      Conflict        the asker looked at something stale: read again
      StepFailed      the world's fault: retried with backoff
      ConfigError     the operator's configuration or usage: exit status 2
      InvariantError  ours: crash, and be restarted

INV-ERR-1: a code names one class for ever; two classes cannot share one.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, NamedTuple


class Code(NamedTuple):
    """One row of the table of codes."""

    code: str
    meaning: str
    remedy: str


CODES: Final[dict[str, Code]] = {}


class EnjinError(Exception):
    """A failure with a stable code.

    Args:
        message: What failed and why: one line, lower case, no period at the end.
        hint: What the reader can do about it.
        details: Machine-readable fields for logs and problem bodies; never secrets.
    """

    code: ClassVar[str] = "E-ENJ-000"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retry: ClassVar[bool] = False
    remedy: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            known = CODES.get(cls.code)
            meaning = (cls.__doc__ or cls.__name__).strip().splitlines()[0]
            if known is not None and known.meaning != meaning:
                raise TypeError(f"error code {cls.code} is used twice")
            CODES[cls.code] = Code(cls.code, meaning, cls.remedy)

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or type(self).remedy
        self.details = details

    def __str__(self) -> str:
        return self.message


class Refused(EnjinError):
    """The wish is not allowed or not possible."""

    code = "E-ENJ-001"
    http_status = 422


class Forbidden(Refused):
    """The asker lacks the permission."""

    code = "E-ENJ-002"
    http_status = 403
    remedy = "ask an operator for a grant, or use another key or token"


class NotFound(Refused):
    """There is no such thing."""

    code = "E-ENJ-003"
    http_status = 404


class Invalid(Refused):
    """The input is malformed."""

    code = "E-ENJ-004"
    http_status = 400


class Conflict(EnjinError):
    """Something else happened meanwhile: read again."""

    code = "E-ENJ-005"
    http_status = 409


class StepFailed(EnjinError):
    """A step did not succeed; it is tried again."""

    code = "E-ENJ-006"
    http_status = 503
    retry = True


class Unreachable(StepFailed):
    """Nobody answered in time."""

    code = "E-ENJ-007"
    http_status = 504
    remedy = "`enjin status` shows what runs; `enjin up` mends what does not"


class ConfigError(EnjinError):
    """The configuration or the usage is wrong."""

    code = "E-ENJ-008"
    exit_status = 2
    http_status = 400


class InvariantError(EnjinError):
    """An invariant of enjin itself does not hold: a defect."""

    code = "E-ENJ-009"
    remedy = "report it with the journal's number and the log"


def invariant(condition: object, message: str, **details: Any) -> None:
    """Raise ``InvariantError`` with *message* unless *condition* is true."""
    if not condition:
        raise InvariantError(message, **details)


def from_reply(code: str, message: str, hint: str = "") -> EnjinError:
    """Return the error that a peer's reply describes: the known class where *code* is known, else ``Refused``."""
    found: type[EnjinError] | None = None
    pending: list[type[EnjinError]] = [EnjinError]
    while pending:
        cls = pending.pop()
        if cls.__dict__.get("code") == code:
            found = cls
            break
        pending.extend(cls.__subclasses__())
    error = (found or Refused)(message, hint=hint)
    if found is None:
        error.details["code"] = code
    return error


def code_of(error: BaseException) -> str:
    """Return the stable code of *error*; foreign exceptions have ``E-ENJ-000``."""
    if isinstance(error, EnjinError):
        return str(error.details.get("code", error.code))
    return EnjinError.code
