"""RFC 6455, sans-I/O: a client's bytes become messages, messages become bytes for a client. Compiled by mypyc.

    handshake   request head  -> Upgrade (origin and subprotocol checked) -> the 101 response
    decoder     client bytes  -> messages, pings, closes (frames, fragments and limits inside)
    masking     the XOR of client payloads
    utf8        text checked while it arrives
    frames      opcodes; messages and closes -> server bytes
    closing     close codes: which may be sent or received, and whether a client should reconnect

May import: `types`, `errors` and the light standard library. Must never: know sockets, asyncio, clocks, logging or
the broker. Errors of a peer are return values here; only `handshake` raises (HandshakeError).

permessage-deflate (RFC 7692) will live here too. Until then no offer of an extension is accepted and a set RSV bit is
a protocol error.
"""
