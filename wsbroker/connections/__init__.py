"""The clients' WebSocket connections: bytes in, bytes out, deadlines, and the loop turn that moves messages. Compiled.

    connections    Connections: admits, accepts and ends connections; runs the loop turn and the timer wheel
    connection     Connection: the asyncio protocol of one client, with pings, closing handshake and time limits
    turn           Turn: what all connections share: broker, timer wheel, time limits, the number of the loop turn
    inline_runner  InlineRunner: calls the message handler in the loop, without a worker

May import: asyncio, `broker`, `websocket`, `wire`, `types`, `errors`. Must never: import `pool` or `front` (the
composition root hands over what they need), hold async code, or run the application's code outside `inline_runner`.
"""
