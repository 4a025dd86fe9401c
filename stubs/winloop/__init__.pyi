"""What we use of winloop, which can be installed on Windows only; so that types are checked everywhere."""

import asyncio

class Loop(asyncio.AbstractEventLoop): ...

class EventLoopPolicy(asyncio.AbstractEventLoopPolicy):
    def new_event_loop(self) -> Loop: ...

def new_event_loop() -> Loop: ...
