"""The load's event loop: uvloop where it is installed, for a load should cost less than what it loads."""

import asyncio
from collections.abc import Callable, Coroutine


def run_in_loop(main: Coroutine[object, object, None]) -> None:
    """Runs a coroutine to its end."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
