"""Counts the requests that it handles."""

import wsbroker

counts = [0]


def handle_http_request(request: wsbroker.HttpRequest) -> str | None:
    if request.pathname == "/count":
        return str(counts[0])
    counts[0] += 1
    return None
