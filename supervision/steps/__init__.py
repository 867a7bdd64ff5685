"""The closed table of steps: what the privileged half of a supervisor can be asked to do.

Owns the shapes of steps, node specifications and their results, and the checks that need nothing but the value itself (names, relative
paths, addresses, bounds). Carries nothing out; what depends on the host (roots, uid ranges) is checked by hands.

INV-STP-1: a path in a step is relative to a named root and has no `..`, empty or `.` part; the one exception is the root `host`, whose
           sources are absolute and must lie in the directories that hands' configuration allows.
INV-STP-2: a step that does not parse is refused as a whole; an unknown kind or field is refused.

May import: enjin, msgspec.
"""

from supervision.steps.checks import HOST_ROOT, Record
from supervision.steps.faults import BadStep, Busy, NetworkFailed, NodeFailed, NoSuchNode, Stale, TooBig, Unsupported
from supervision.steps.nodes import Control, Interface, Limits, Mount, NodeSpec, Service
from supervision.steps.results import Done, Probed, Running, Sealed, Seen, Verdict
from supervision.steps.table import (
    AnyStep,
    DestroyNode,
    EnsureFabric,
    GiveListeners,
    InspectAll,
    InspectNode,
    Probe,
    RemoveFabric,
    RemoveTree,
    ReplaceRules,
    Rule,
    SealTree,
    StartNode,
    Step,
    StopNode,
    parse_step,
)  # fmt: skip

__all__ = [
    "HOST_ROOT", "AnyStep", "BadStep", "Busy", "Control", "DestroyNode", "Done", "EnsureFabric", "GiveListeners", "InspectAll",
    "InspectNode", "Interface", "Limits", "Mount", "NetworkFailed", "NoSuchNode", "NodeFailed", "NodeSpec", "Probe", "Probed",
    "Record", "RemoveFabric", "RemoveTree", "ReplaceRules", "Rule", "Running", "SealTree", "Sealed", "Seen", "Service", "Stale",
    "StartNode", "Step", "StopNode", "TooBig", "Unsupported", "Verdict", "parse_step",
]  # fmt: skip
