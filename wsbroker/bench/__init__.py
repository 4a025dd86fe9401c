"""``wsbroker bench URL [rtt|fanout|storm]``: measures a running broker from outside, as its clients see it.

The broker must speak the built-in pub/sub protocol (`wsbroker.apps.pubsub`). Nothing of the server is looked at, so it
may run anywhere; what this client cost itself is shown, because a client that has no time left measures itself.

    rtt      every connection sends a ping, and the next one when its pong has come
    fanout   one publisher, all others subscribed: a number of publications is always on the way to everybody
    storm    connect, subscribe, close, and again, on as many connections at a time

Bounded in connections, time and memory. Exit codes: 0 measured, and nothing was lost; 1 it could not be measured, or
messages were lost or out of order; 2 a usage error.

May import: `websocket`, `config`, `errors`; from outside asyncio and click. Must never: look at the server's process.
"""
