"""Strategy jail: Linux namespaces with a root of their own; ring 1 with a range of uids, apps and builds with one uid."""

from supervision.jail.strategy import Jail

__all__ = ["Jail"]
