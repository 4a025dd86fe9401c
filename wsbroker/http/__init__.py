"""HTTP as handlers see it: requests, responses, headers. The same objects in every kind of worker.

    headers            Headers: header fields, and the check of fields that are going to be sent
    request            HttpRequest
    response           HttpResponse and Accept, checked when they are made
    handler_returns    what a handler may return, turned into a checked response or acceptance
    targets            the forms of a request target; whether a request was meant to open a WebSocket
    charsets           the charsets in which a request's body is read as text

May import: `types`, `errors` and the light standard library, because every interpreter loads this room.
Must never: import asyncio, aiohttp, a compiled module or another room.
"""
