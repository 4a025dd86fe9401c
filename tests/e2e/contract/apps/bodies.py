"""Answers with the body of a request, as bytes, as text or as JSON."""

import wsbroker


def handle_http_request(request: wsbroker.HttpRequest) -> wsbroker.HttpResponse | str | bytes:
    if request.pathname == "/echo":
        return request.body
    try:
        return repr(request.json() if request.pathname == "/json" else request.text())
    except ValueError as error:
        return type(error).__name__
