"""HTTP: accepts connections, answers plain requests, and hands upgraded connections to the WebSocket connections.

    front                  Front: listeners, the table of HTTP connections, start and stop
    listening              listening sockets, TCP, Unix (mode and group of the file) and inherited: all or none
    http_connection        the states of one connection and their table: the asyncio protocol
    request_reader         the reading half of a connection: parsing, bodies, the count and limit of bytes held
    upgrade                upgrade requests: the opening handshake and the open handler
    plain_http             plain requests: checks, bodies, responses
    conversion             aiohttp's heads to `HttpRequest`, `HttpResponse` to bytes
    error_responses        the table of responses that the front sends without a handler
    message_slicer         where the input of a connection is divided for the parser
    body_collector         the body of one request while it is read
    connection_resources   limits, deadlines, counts and log of all connections; aborts the slowest readers
    parse_scheduler        which connection with more input than one loop turn allows parses next
    deadlines              many deadlines of one length with one timer
    rate_limited_log       warnings about clients
    aiohttp_private        every use of names that aiohttp does not promise to keep
    interfaces             the WebSocket connections and the pool as this room uses them

An upgraded connection leaves this room completely: its transport and the bytes already read go to
`ConnectionsLike.accept_upgrade`, and no object of aiohttp's stays behind. All that this room keeps is limited in bytes,
in connections and in time.

May import: `websocket` (the handshake only), `http`, `settings`, `types`, `errors`, `guarded_log`, aiohttp, asyncio.
Must never: import `pool`, `connections` or `broker` (they come in as arguments, see `interfaces`), or read a frame.
"""
