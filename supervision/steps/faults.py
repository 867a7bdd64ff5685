"""What can be wrong with a step, or with carrying it out.

May import: enjin.
"""

from __future__ import annotations

from enjin.errors import Conflict, Invalid, NotFound, StepFailed


class BadStep(Invalid):
    """A step is malformed or names what it may not."""

    code = "E-STP-001"


class Stale(Conflict):
    """A step is older than the node it is about."""

    code = "E-STP-002"


class NoSuchNode(NotFound):
    """Hands knows no such node."""

    code = "E-STP-003"


class NodeFailed(StepFailed):
    """A node could not be started or stopped."""

    code = "E-STP-004"


class NetworkFailed(StepFailed):
    """A link, address, route or rule could not be set."""

    code = "E-STP-005"


class Unsupported(Invalid):
    """This machine cannot do that."""

    code = "E-STP-006"
    remedy = "`enjin doctor` says what works here and what is missing"


class Busy(Conflict):
    """The thing is in use."""

    code = "E-STP-007"


class TooBig(Invalid):
    """A tree holds too much, or what a release may not hold."""

    code = "E-STP-008"
