"""``wsbroker bench URL [rtt|fanout|storm]``: measures a running broker from outside, as its clients see it.

The broker must speak the built-in pub/sub protocol (`wsbroker.apps.pubsub`). The server's process
is not looked at, so it may run anywhere. The CPU of this client is shown: a client that is busy all the time measures
itself.

    rtt      every connection sends a ping, and the next when the pong has come
    fanout   one publisher, all others subscribed: a number of publications is always on the way to everybody
    storm    connect, subscribe, close, and again, on as many connections at a time

    command    the arguments, the table, the exit code
    scenarios  what the clients do and count
    client     the WebSocket client, which the load runs of ``benchmarks/`` use too
    latency    the histogram of durations

Bounded in connections, time and memory. Exit codes: 0 measured, and nothing was lost; 1 it could not be measured, or
messages were lost or out of order; 2 a usage error.

May import: `websocket`, `settings`, `errors`; from outside asyncio and click. Must never: look at the server's process.
"""
