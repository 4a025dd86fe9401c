"""The front door: listens, parses requests with aiohttp, serves plain HTTP, and hands upgrades to the sockets.

What is read goes to the parser in slices (`slicer`), so that no client's bytes stall the others; bodies are collected
without exceptions (`body_collector`), so that nothing of a client that leaves waits for the collector.

An upgraded connection leaves this room whole: its transport and the bytes already read go to `ConnectionsLike.accept_upgrade`, and
nothing of aiohttp stays behind. What this room keeps is bounded in bytes, in connections and in time.

May import: `live_transport`, `websocket` (the handshake only), `addresses`, `config`, `types`, `errors`, aiohttp, asyncio.
Must never: import `pool`, `aiohttp_server` or `broker` (the parts come in as arguments), or look into a frame.
"""
