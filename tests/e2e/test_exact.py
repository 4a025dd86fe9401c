"""Several workers, their threads and the main program act on the same sockets: one order explains all they saw.

EXACT_PROGRAMS in the environment says how many random programs each test plays, EXACT_SECONDS for how long instead, and
EXACT_SEED that it is always the one of this seed (how its actors meet is different each time).
"""

import asyncio
import os
import random
from collections import Counter
from time import monotonic

import pytest

from e2e.exact_kit import Play, recorded
from e2e.pool_kit import KINDS
from unit.pool.fakes import LOOPS
from wsbroker.config import WorkerKind

PROGRAMS = int(os.environ.get("EXACT_PROGRAMS", "6"))
SECONDS = float(os.environ.get("EXACT_SECONDS", "0"))
SEED = os.environ.get("EXACT_SEED", "")


async def play(kind: WorkerKind, app: str) -> Counter[str]:
    """Plays programs one after the other on one server; returns what was counted."""
    tally: Counter[str] = Counter()
    begin = monotonic()
    async with recorded(kind, app) as (recorder, url):
        while monotonic() < begin + SECONDS if SECONDS else tally["programs"] < PROGRAMS:
            seed = SEED or f"{random.SystemRandom().getrandbits(32):08x}"
            is_async = app == "Async"
            has_threads = kind != "inline" or is_async  # who blocks the loop may not wait for whom it serves
            try:
                await Play(recorder, url, seed, has_threads, is_async, tally).run()
            except BaseException as error:
                error.add_note(f"again: EXACT_SEED={seed} EXACT_PROGRAMS=1000 and this test; done before: {tally}")
                raise
    return tally


@pytest.mark.parametrize("app", ["Sync", "Async"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_order_explains_what_all_actors_saw(kind: WorkerKind, app: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS["uvloop"]) as runner:
        tally = runner.run(play(kind, app))
    print(kind, app, dict(tally))
    assert tally["programs"] and tally["tokens seen"] and tally["answers"]
