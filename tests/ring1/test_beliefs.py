"""A real agent answers people whom its ring 1 believes, from when it is told until it is told otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bus.caller import Caller
from bus.fan_out import FanOut
from bus.groups import EVERYBODY
from bus.roll_call import Ping
from bus.speaker import Speaker
from enjin.canonical import from_text, to_text
from enjin.errors import EnjinError
from enjin.host import clock
from keys.frame import open_frame
from keys.grants import PublicKeys, read_grant, sign_grant
from keys.keyring import Keyring
from keys.signing import Signer
from keys.succession import make_successor
from ring1.beliefs import Beliefs
from supervision.instances import OfferGrants
from tests.bus.waiting import until_async
from tests.ring2.agents import AGENT, CHANNEL, Ring1, ring1, seed


class Operator:
    """Somebody with a key of ring 0's granting, at ring 1's end of an agent's pipe."""

    def __init__(self, one: Ring1) -> None:
        chain = one.chain
        ring0 = Keyring(chain.trust.cloud, seed("r0"), seed("r0 issuer"))
        assert ring0.issuer is not None
        self.keyring = Keyring(chain.trust.cloud, seed("operator"))
        parent = open_frame(chain.frames[0]).digest
        keys = PublicKeys(message=self.keyring.message.public.hex())
        grant = chain.trust.add(sign_grant(chain.grant("o-1", 0, 0, "cloud", keys, parent, role=2), ring0.issuer))
        speaker = Speaker(
            cloud=str(chain.trust.cloud), channel=CHANNEL, issuer="o-1", grant=grant, signer=self.keyring.message, daemon=False,
        )  # fmt: skip
        self.caller = Caller(one.transport, speaker, chain.trust, responder=AGENT)

    async def heard(self) -> bool:
        """Return whether the agent answers us now."""
        found = await FanOut([self.caller], EVERYBODY, {AGENT: "the agent"}).ask(Ping(), timeout_s=0.3)
        return found.summary().ok == 1


def test_n23_an_agent_believes_people_as_its_ring_1_does(home: Path) -> None:
    """Unknown, told, restarted and told again, revoked: silence, an answer, an answer, silence."""

    async def main() -> None:
        async with ring1(home) as one:
            operator = Operator(one)
            beliefs = Beliefs(one.chain.trust, lambda: clock().wall_us)
            assert not await operator.heard()
            beliefs.tell({AGENT: one.caller})
            await until_async(operator.heard, "the operator is believed")
            one.kill_agent()
            await one.start_agent()
            assert not await operator.heard()
            beliefs.tell({AGENT: one.caller})
            assert not await operator.heard()  # it was told, as far as is known
            beliefs.forget(AGENT)
            beliefs.tell({AGENT: one.caller})
            await until_async(operator.heard, "the operator is believed again")
            one.chain.trust.revoke(str(operator.keyring.message.key_id))
            beliefs.tell({AGENT: one.caller})

            async def silent() -> bool:
                return not await operator.heard()

            await until_async(silent, "the operator is believed no longer")
            await beliefs.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_only_what_ring_0_granted_and_is_in_force_is_told(home: Path) -> None:
    """No neighbour's grant, no expired one; every revocation."""

    async def main() -> None:
        one = Ring1(home)
        try:
            Operator(one)
            now = clock().wall_us
            one.chain.trust.revoke("f" * 64, "a test")
            belief = Beliefs(one.chain.trust, lambda: now).wanted()
            assert [read_grant(open_frame(from_text(text))).subject for text in belief.grants] == ["n-0", "o-1"]
            assert belief.revoked == ("f" * 64,)
            assert Beliefs(one.chain.trust, lambda: now + 10**12).wanted().grants == ()
        finally:
            one.close()
            await one.transport.close()

    asyncio.run(main())


def test_n24_an_agent_follows_the_root_and_nothing_else(home: Path) -> None:
    """N24: the root's successor is told and taken while it runs and when it begins anew; a skip is refused; what one drops is over."""

    async def main() -> None:
        async with ring1(home) as one:
            trust, operator = one.chain.trust, Operator(one)
            shares, others = ([Signer.from_seed(seed(f"{word} {number}")) for number in range(3)] for word in ("share", "other share"))
            root = open_frame(trust.root_frame)
            times = {"issued": one.chain.now, "expiry": trust.root.expiry}
            second = make_successor(root, shares, others, confirms=[open_frame(one.chain.frames[0]).digest], **times)
            third = make_successor(open_frame(second), others, shares, confirms=[], **times)
            with pytest.raises(EnjinError) as caught:
                await one.ask(OfferGrants(grants=(), roots=(to_text(third),)))
            assert caught.value.code == "E-ROT-003"
            trust.follow_roots([second])
            beliefs = Beliefs(trust, lambda: clock().wall_us)
            for restarted in (False, True):
                if restarted:
                    one.kill_agent()
                    await one.start_agent()
                    beliefs.forget(AGENT)
                beliefs.tell({AGENT: one.caller})
                await until_async(operator.heard, "the operator is believed")
            with pytest.raises(EnjinError) as caught:
                await one.ask(OfferGrants(grants=(), roots=(to_text(make_successor(root, shares, shares, **times)),)))
            assert caught.value.code == "E-ROT-004"
            assert await operator.heard()
            await one.ask(OfferGrants(grants=(), roots=(to_text(third),)))
            assert not await operator.heard()
            await beliefs.close()

    asyncio.run(main())
