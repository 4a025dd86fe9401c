"""Runnable examples, each of them a module to copy from.

    basic          an echo, and one channel to which every client is subscribed
    live           the README's example, with a page that reconnects
    chat           rooms, with a page
    auth           a login over HTTP, JWTs, a channel per user
    test_client    a client for all of them, with aiohttp

May import: the public API (`wsbroker`) and the standard library; `auth` PyJWT, `test_client` aiohttp. Must never:
need a setting to start, or keep state in a module: workers share state through channels and tokens only.
"""
