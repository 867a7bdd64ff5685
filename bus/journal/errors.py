"""What can go wrong with a journal, each with its own code. Imports the ground only."""

from __future__ import annotations

from enjin.errors import ConfigError, Conflict, EnjinError, NotFound, Refused, StepFailed


class JournalLost(StepFailed):
    """The journal could not be written: the process ends, and the log is read again at the next start."""

    code = "E-JNL-001"
    remedy = "look at the disk (full, failing, read-only); the daemon comes back by itself, and the same request may be sent again"


class JournalBusy(Conflict):
    """Another process writes this journal."""

    code = "E-JNL-002"
    remedy = "one decider per domain: stop the other daemon first"


class ForeignJournal(Refused):
    """The journal or its projection belongs to another cloud or domain."""

    code = "E-JNL-003"
    remedy = "put the right state directory back; nothing was changed"


class JournalDamaged(EnjinError):
    """An entry, its hash or a signature of the journal does not hold: it is not written to any more."""

    code = "E-JNL-004"
    http_status = 503
    remedy = "`enjin audit verify` names the first bad entry; it is repaired from a witness, never cut"


class ProjectionAhead(EnjinError):
    """The projection holds more than the journal: the journal was put back or cut."""

    code = "E-JNL-005"
    remedy = "restore the journal from a witness; only then rebuild the projection"


class UnknownFact(Refused):
    """An entry holds a fact of a kind that this version does not know: projecting stops, copying goes on."""

    code = "E-JNL-006"
    remedy = "upgrade enjin on this node"


class StaleEpoch(Refused):
    """An entry or a decider is of an epoch that has been superseded."""

    code = "E-JNL-007"


class RequestReused(Conflict):
    """The request id was used for another wish."""

    code = "E-JNL-008"
    remedy = "make a new request id for a new wish"


class RequestTooOld(Refused):
    """The request id is older than the journal remembers."""

    code = "E-JNL-009"
    remedy = "read what became of the first try, then ask again under a new request id"


class RequestFromFuture(Refused):
    """The request id was made too far in the future of cloud time."""

    code = "E-JNL-010"
    remedy = "make request ids from cloud time, not from a wall clock that is ahead"


class Overloaded(StepFailed):
    """More wishes wait than the decider takes."""

    code = "E-JNL-011"
    remedy = "try again in a moment"


class EntryTooLarge(Refused):
    """One wish would change more than an entry can hold."""

    code = "E-JNL-012"
    remedy = "split the wish"


class Forked(EnjinError):
    """Two signed histories of one domain differ at the same number: its decider, or its key, is not to be trusted."""

    code = "E-JNL-013"
    http_status = 409
    remedy = "stop the domain, keep both files as evidence, and find out who signed twice"


class RolledBack(EnjinError):
    """A journal shows less than a witness has already seen of it."""

    code = "E-JNL-014"
    http_status = 409
    remedy = "an old copy was put back: stop the node, then `enjin audit repair` takes the rest from the witness"


class BadStretch(Refused):
    """Entries on offer are not the signed continuation of a journal."""

    code = "E-JNL-015"


class BadCheckpoint(Refused):
    """A checkpoint or its cosignature does not hold."""

    code = "E-JNL-016"


class NoSuchEntry(NotFound):
    """The journal has no such moment."""

    code = "E-JNL-017"


class JournalClosed(StepFailed):
    """The journal is closed."""

    code = "E-JNL-018"


class UnsupportedDatabase(ConfigError):
    """The journal's database is of a kind that this version does not write to."""

    code = "E-JNL-019"
    remedy = "use sqlite:////absolute/path or postgresql://host/database"


class BadSnapshot(Refused):
    """A snapshot on offer is not one that the domain's decider signed, or not whole."""

    code = "E-JNL-030"


class Diverged(EnjinError):
    """The same entries gave two daemons different worlds."""

    code = "E-JNL-031"
    http_status = 409
    remedy = "run `enjin audit verify` on both; the one that is not rebuilt to the same digest runs another version or has bad memory"


class DiskFull(EnjinError):
    """The disk is full: only revocations, stops and removals are decided until there is room again."""

    code = "E-JNL-020"
    retry = True
    http_status = 507
    remedy = "make room on the disk of ENJIN_HOME; it goes on by itself within two seconds"


class JournalAway(StepFailed):
    """The database server under the journal is away, or does not confirm: nothing is decided until it is back."""

    code = "E-JNL-021"
    remedy = "start or promote a server of the journal's address; nothing acknowledged is lost, and it goes on by itself"


class NotDecider(Conflict):
    """Another daemon holds the decider's lease of this journal."""

    code = "E-JNL-022"
    retry = True


class SupersededServer(StepFailed):
    """The server under the journal is a former primary: another one has been promoted since."""

    code = "E-JNL-023"
    remedy = "bring back the server that was promoted, and make this one its replica (pg_rewind); nothing was changed"


class UnprotectedServer(ConfigError):
    """The journal's server is on another machine, and its address does not ask for TLS that checks who answers."""

    code = "E-JNL-024"
    remedy = "add sslmode=verify-full&sslrootcert=/absolute/path/of/ca.pem to the address"


class UnprovedServer(JournalAway):
    """Whoever answers for the journal's server does not prove to be it: nothing was sent there."""

    code = "E-JNL-025"
    remedy = "compare the server's certificate with the address (sslrootcert, the host's name) and its dates; it goes on by itself"
