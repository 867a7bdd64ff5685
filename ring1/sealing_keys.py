"""The private halves of compartments' sealing keys: made, enrolled, used, destroyed.

Owns the files below ``ring1/secrets``: beside journal and projection, and in no backup. Acts on what the journal says: a key
that was condemned is destroyed and never read again, once the approvals that this needed were seen to hold.

INV-SLK-1: a file is made only while the journal knows no key, so a shredded compartment does not come by another one unasked.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from compartments import approved, graph
from compartments.destroying import ending_of
from compartments.domain import Domain
from compartments.rows import Compartment
from compartments.rows_apps import SealingKey
from compartments.shredding import ShredSecrets
from enjin import log
from enjin.errors import EnjinError, Refused
from keys.keyring import KeyPair, create_seed, destroy_seed, load_seed
from keys.sealing import Unsealable
from ring1.settings import EnrollSealingKey
from ring1.shredding import SawShredded


class SealingKeys:
    """The sealing keys that this ring 1 node holds."""

    def __init__(self, domain: Domain, home: Path) -> None:
        self._domain, self._directory = domain, home / "ring1" / "secrets"
        self._log = log.get("secrets")

    def pair(self, compartment: str) -> KeyPair:
        """Return the key of *compartment* (an id). Raises: Unsealable (condemned, destroyed or none), BadKeyFile."""
        key = self._domain.world.get(SealingKey, compartment)
        if key is None or key.state != "in use":
            why = "there is no sealing key yet" if key is None else f"the secrets of compartment {compartment} were shredded"
            raise Unsealable(why)
        return KeyPair(load_seed(self._path(compartment)))

    async def settle(self) -> None:
        """Make and enrol what is missing, and destroy what is condemned."""
        world = self._domain.world
        for compartment in world.find(Compartment, kind="environment"):
            key = world.get(SealingKey, compartment.id)
            if key is None and ending_of(world, compartment.id) is None:
                await self._enrol(compartment)
            elif key is not None and key.state == "condemned":
                await self._destroy(compartment, key)

    async def _enrol(self, compartment: Compartment) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = KeyPair(create_seed(self._path(compartment.id))).public.hex()
        with contextlib.suppress(EnjinError):
            await self._domain.wish(EnrollSealingKey(compartment=compartment.name, public=public))  # type: ignore[arg-type]

    async def _destroy(self, compartment: Compartment, key: SealingKey) -> None:
        await self._domain.journal.settled()  # never before the order is on disk
        world = self._domain.world
        ending, path = ending_of(world, compartment.id), graph.path_text(world, compartment.id)
        try:
            if ending is not None and ending.condemned == key.condemned:  # with the compartment, and not for itself
                approved.check_order(world, self._domain.trust, ending, path)
            else:
                approved.check(world, self._domain.trust, ShredSecrets.KIND, path, key.condemned)
        except Refused as error:
            self._log.error("key.kept", compartment=compartment.name, error=error)
            return
        destroy_seed(self._path(compartment.id))
        self._log.warning("key.destroyed", compartment=compartment.name)
        with contextlib.suppress(EnjinError):
            await self._domain.wish(SawShredded(compartment=compartment.id, public=key.public))

    def remove(self, compartment: str) -> None:
        """Destroy a key file of *compartment* (an id) that the journal never came to know; harmless when there is none."""
        destroy_seed(self._path(compartment))

    def _path(self, compartment: str) -> Path:
        return self._directory / f"{compartment}.key"
