"""HTTP as handlers see it: requests, responses, headers. The same objects in every kind of worker.

    messages           HttpRequest, HttpResponse, Headers, Accept
    targets            the forms of a request target; whether a request meant to open a WebSocket
    charsets           the charsets in which a request's body is read as text

May import: `types`, `errors` and the light standard library: every interpreter loads this room.
"""
