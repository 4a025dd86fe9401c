"""Who is connected, who listens to what, and what waits for whom. Sans-I/O, compiled.

May import: `websocket` (to encode frames), `wire` (to name events and commands), `types`, `errors`.
Must never: know asyncio, a transport, a clock or logging. Time comes in as an argument, facts go out as values
(`Counters`), and whoever owns the loop hears through `TurnScheduler.schedule_turn` that there is something to flush.
"""
