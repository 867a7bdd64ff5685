"""Who may see what: apps and compartments as one asker finds them.

Owns the look-ups that every service of ring 1 begins with and their errors. Pure functions of World and asker.

INV-TEN-1: to a tenant, an app of another compartment and an app that does not exist are the same refusal.
INV-TEN-2: a name is suggested only to someone who may see the thing it names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final

from bus.messages import Asker, Role
from compartments.rows import Compartment
from compartments.rows_apps import App, Release
from compartments.world import World
from enjin.errors import NotFound
from enjin.names import shorten

DEPTH_MAX: Final = 64


class UnknownApp(NotFound):
    """There is no such app, or it is not the asker's."""

    code = "E-APP-001"
    remedy = "`enjin app list` names the apps"


class UnknownCompartment(NotFound):
    """There is no such compartment here, or it is not the asker's."""

    code = "E-APP-002"
    remedy = "`enjin compartment list` names the compartments"


class UnknownRelease(NotFound):
    """The app has no such release."""

    code = "E-REL-001"
    remedy = "`enjin releases` names the releases that are kept"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" for the closest of *known*, or an empty text."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def homes(world: World, compartment: str) -> list[Compartment]:
    """Return *compartment* (an id) and the homes above it, innermost first."""
    chain: list[Compartment] = []
    row = world.get(Compartment, compartment)
    while row is not None and len(chain) < DEPTH_MAX:
        chain.append(row)
        row = world.get(Compartment, row.parent) if row.parent else None
    return chain


def path_of(world: World, compartment: str) -> str:
    """Return the path of names from the outermost home to *compartment* (an id), such as ``cloud/site/default``."""
    return "/".join(row.name for row in reversed(homes(world, compartment))) or compartment


def sees(world: World, asker: Asker, compartment: str) -> bool:
    """Whether *compartment* (an id) is the asker's own or its home lies in it. An asker of no compartment sees nothing."""
    if asker.role >= Role.SUPERVISOR:
        return True
    bound = asker.compartment
    if not bound:
        return False
    if any(bound in (row.id, row.name) for row in homes(world, compartment)):
        return True
    path = path_of(world, compartment)
    return path == bound or path.startswith(bound + "/")


def find_compartment(world: World, text: str, asker: Asker) -> Compartment:
    """Return the compartment with id or name *text*.

    Raises:
        UnknownCompartment: There is none that *asker* may see.
    """
    row = world.get(Compartment, text) or world.first(Compartment, name=text)
    if row is not None and sees(world, asker, row.id):
        return row
    names = [one.name for one in world.all(Compartment) if sees(world, asker, one.id)]
    raise UnknownCompartment(f"there is no compartment {shorten(text)!r} here", hint=suggestion(text, names))


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
    """Return the compartment that a wish about ``wish.app`` touches, for the permission check; "" when there is no such app."""
    app = world.get(App, wish.app)
    return app.compartment if app is not None and not app.destroyed else ""


def where_compartment(wish: Any, world: World) -> str:
    """Return the id of ``wish.compartment``, for the permission check; "" when there is no such compartment."""
    row = world.get(Compartment, wish.compartment) or world.first(Compartment, name=wish.compartment)
    return row.id if row is not None else ""
