"""Who may see what: apps and compartments as one asker finds them.

Owns the look-ups that every service of ring 1 begins with and their errors. Pure functions of World and asker.

INV-TEN-1: to a tenant, an app of another compartment and an app that does not exist are the same refusal.
INV-TEN-2: a name is suggested only to someone who may see the thing it names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from bus.messages import Asker, Role
from compartments import graph
from compartments.lookup import NoSuchCompartment, check_open
from compartments.rows import Compartment
from compartments.rows_apps import App, Release
from compartments.world import World
from enjin.errors import NotFound
from enjin.names import shorten
from keys.grants import within_path


class UnknownApp(NotFound):
    """There is no such app, or it is not the asker's."""

    code = "E-APP-001"
    remedy = "`enjin app list` names the apps"


class UnknownRelease(NotFound):
    """The app has no such release."""

    code = "E-REL-001"
    remedy = "`enjin releases` names the releases that are kept"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" for the closest of *known*, or an empty text."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def sees(world: World, asker: Asker, compartment: str) -> bool:
    """Whether *compartment* (an id) is the asker's own or has its home in it. A tenant of no compartment sees nothing.

    A key's bound is a path of names, as grants have it; an account's is an id, as its rows have it.
    """
    if asker.role >= Role.SUPERVISOR or (asker.role == Role.OPERATOR and not asker.compartment):
        return True
    bound = asker.compartment
    return graph.within(world, compartment, bound) or within_path(graph.path_text(world, compartment), bound)


def find_compartment(world: World, text: str, asker: Asker) -> Compartment:
    """Return the compartment with id or name *text*.

    Raises:
        NoSuchCompartment: There is none that *asker* may see.
    """
    row = world.get(Compartment, text) or world.first(Compartment, name=text)
    if row is not None and sees(world, asker, row.id):
        return row
    names = [one.name for one in world.all(Compartment) if sees(world, asker, one.id)]
    raise NoSuchCompartment(f"there is no compartment {shorten(text)!r}", hint=suggestion(text, names))


def open_compartment(world: World, text: str, asker: Asker) -> Compartment:
    """Return the compartment with id or name *text*, for something new in it. Raises: NoSuchCompartment, BeingDestroyed."""
    row = find_compartment(world, text, asker)
    check_open(world, row)
    return row


def find_app(world: World, name: str, asker: Asker) -> App:
    """Return the app *name*.

    Raises:
        UnknownApp: There is none that *asker* may see.
    """
    app = world.get(App, name)
    if app is not None and not app.destroyed and sees(world, asker, app.compartment):
        return app
    raise UnknownApp(f"there is no app {shorten(name)!r}", hint=suggestion(name, (one.name for one in visible_apps(world, asker))))


def visible_apps(world: World, asker: Asker) -> list[App]:
    """Return the apps that *asker* may see, by name."""
    seen: dict[str, bool] = {}
    found = []
    for app in world.all(App):
        if app.compartment not in seen:
            seen[app.compartment] = sees(world, asker, app.compartment)
        if seen[app.compartment] and not app.destroyed:
            found.append(app)
    return found


def find_release(world: World, app: str, number: int) -> Release:
    """Return release *number* of *app*.

    Raises:
        UnknownRelease: There is none, or none any more.
    """
    release = world.get(Release, app, number)
    if release is None:
        raise UnknownRelease(f"app {app} has no release {number}")
    return release


def where_app(wish: Any, world: World) -> str:
    """Return the name of the compartment that a wish about ``wish.app`` touches, for the permission check; "": there is no such app."""
    app = world.get(App, wish.app)
    return world.need(Compartment, app.compartment).name if app is not None and not app.destroyed else ""


def where_compartment(wish: Any, world: World) -> str:
    """Return the name of ``wish.compartment``, for the permission check; "" when there is no such compartment."""
    return name_of(world, wish.compartment)


def name_of(world: World, text: str) -> str:
    """Return the name of the compartment with id or name *text*; "" when there is none."""
    row = world.get(Compartment, text) or world.first(Compartment, name=text)
    return row.name if row is not None else ""


def agent_node(compartment: str) -> str:
    """Return the subject id of the agent of *compartment* (an id)."""
    return f"a-{compartment.rpartition('-')[2]}"
