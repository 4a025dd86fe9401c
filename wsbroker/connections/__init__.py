"""The only room that touches a client's WebSocket connection: bytes in, bytes out, deadlines. Compiled.

May import: asyncio, `broker`, `websocket`, `wire`, `types`, `errors`. Must never: import `pool` or `front` (the
composition root hands over what they need), hold async code, or run the application's code outside `inline_runner`.
"""
