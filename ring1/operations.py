"""Operations: what became of a wish that takes time.

Owns the queries by which a client follows its own request: the task, the release it made, how far its instances are.
Pure; computed from rows at the moment of asking.
"""

from __future__ import annotations

from typing import Final

from bus.messages import Asker, Query, Question, Role
from compartments.rows import Task
from compartments.rows_apps import App, Build, Instance, Release, Rollout
from compartments.world import World
from enjin.errors import NotFound
from enjin.names import shorten
from ring1 import rollouts
from ring1.apps import url_of
from ring1.tenancy import find_app, name_of, sees, where_app

LISTED_MAX: Final = 100


class UnknownOperation(NotFound):
    """There is no such operation, or it is not the asker's, or it ended long ago."""

    code = "E-OPR-001"
    remedy = "`enjin audit log` has everything that ever happened"


class ShowOperation(Query, kind="operation.show", kw_only=True):
    """How far a wish has come: *request* is its id."""

    request: str


class ListOperations(Query, kind="operation.list"):
    """The operations of an app, or of everything that the asker may see, newest first."""

    app: str = ""


def show(query: ShowOperation, world: World, asker: Asker) -> object:
    """Return one operation. Raises: UnknownOperation."""
    task = world.get(Task, query.request)
    if task is None or not sees(world, asker, task.compartment):
        raise UnknownOperation(f"there is no operation {shorten(query.request)!r}")
    return describe(world, task)


def list_operations(query: ListOperations, world: World, asker: Asker) -> object:
    """Return the newest operations. Raises: UnknownApp."""
    tasks = world.find(Task, subject=find_app(world, query.app, asker).name) if query.app else world.all(Task)
    seen = [task for task in tasks if sees(world, asker, task.compartment)]
    newest = sorted(seen, key=lambda task: (-task.started, task.id))[:LISTED_MAX]
    return [describe(world, task) for task in newest]


def describe(world: World, task: Task) -> dict[str, object]:
    """Return *task* with the release it made, how many instances it waits for, and where the app is reached."""
    release = next((one for one in world.find(Release, app=task.subject) if one.request == task.id), None)
    rollout = world.get(Rollout, task.subject)
    waiting: list[Instance] = []
    if rollout is not None and rollout.request == task.id:
        waiting = [one for one in rollouts.gate(rollouts.running(world, task.subject, rollout.generation)) if one.state != "ready"]
    return {
        "id": task.id,
        "kind": task.kind,
        "app": task.subject,
        "state": task.state,
        "stage": task.stage or _stage(world, task, rollout),
        "reason": task.reason,
        "release": release.number if release is not None else 0,
        "release_state": release.state if release is not None else "",
        "code": release.code if release is not None else "",
        "why": release.why if release is not None else "",
        "notes": release.notes if release is not None else (),
        "waiting": [f"{one.process}.{one.index}" for one in waiting],
        "url": url_of(world, task.subject),
        "started": task.started,
        "ended": task.ended,
    }


def _stage(world: World, task: Task, rollout: Rollout | None) -> str:
    if rollout is not None and rollout.request == task.id:
        return "starting"
    if any(world.need(Release, build.app, build.release).request == task.id for build in world.find(Build, app=task.subject)):
        return "building"
    return "" if world.get(App, task.subject) is None else "waiting"


def _where(query: ShowOperation, world: World) -> str:
    task = world.get(Task, query.request)
    return name_of(world, task.compartment) if task is not None else ""


TABLE: Final = (
    Question(ShowOperation, show, allow=Role.TENANT, compartment=_where),
    Question(ListOperations, list_operations, allow=Role.TENANT, compartment=where_app),
)
