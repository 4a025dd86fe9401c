"""Several workers, their threads and the main program act on the same sockets: one order explains all they saw.

EXACT_PROGRAMS in the environment says how many random programs each test plays, EXACT_SECONDS for how long instead, and
EXACT_SEED that it is always the one of this seed (how its actors meet is different each time).
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Coroutine
from time import monotonic

import pytest

from kits.exact_kit import Play, recorded
from kits.pool_fakes import LOOPS
from kits.pool_kit import ELSEWHERE, KINDS
from wsbroker.settings.config import WorkerKind

PROGRAMS = int(os.environ.get("EXACT_PROGRAMS", "6"))
SECONDS = float(os.environ.get("EXACT_SECONDS", "0"))
SEED = os.environ.get("EXACT_SEED", "")


async def play(kind: WorkerKind, app: str, programs: int = PROGRAMS, is_exchanged: bool = False) -> Counter[str]:
    """Plays programs one after the other on one server; returns what was counted."""
    tally: Counter[str] = Counter()
    begin = monotonic()
    is_async = app == "Async"
    has_threads = kind != "inline" or is_async  # who blocks the loop may not wait for whom it serves
    async with recorded(kind, app) as (recorder, server):
        while monotonic() < begin + SECONDS if SECONDS else tally["programs"] < programs:
            seed = SEED or f"{random.SystemRandom().getrandbits(32):08x}"
            program = Play(
                recorder,
                server,
                seed,
                has_threads=has_threads,
                is_async=is_async,
                is_exchanged=is_exchanged,
                tally=tally,
            )
            try:
                await program.run()
            except BaseException as error:
                error.add_note(f"again: EXACT_SEED={seed} EXACT_PROGRAMS=1000 and this test; done before: {tally}")
                raise
    return tally


def run(what: Coroutine[object, object, Counter[str]]) -> None:
    """Runs it, and says what was counted."""
    with asyncio.Runner(loop_factory=LOOPS["uvloop"]) as runner:
        tally = runner.run(what)
    print(dict(tally))
    assert tally["programs"] and tally["tokens seen"] and tally["answers"]


@pytest.mark.parametrize("app", ["Sync", "Async"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_order_explains_what_all_actors_saw(kind: WorkerKind, app: str) -> None:
    run(play(kind, app))


@pytest.mark.parametrize("kind, app", [(kind, "Sync" if kind == "process" else "Async") for kind in ELSEWHERE])
def test_so_it_does_while_workers_are_exchanged(kind: WorkerKind, app: str) -> None:
    run(play(kind, app, max(1, PROGRAMS // 6), is_exchanged=True))
