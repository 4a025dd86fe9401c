"""The measured application on socketify (uWebSockets), with its topics and `App.publish`."""
# mypy: disable-error-code="import-not-found"

import sys

from socketify import App, CompressOptions, OpCode, Request, Response, WebSocket

app = App()


def handle(socket: WebSocket, text: str, opcode: OpCode) -> None:
    if text[0] == "P":
        _, channel, payload = text.split(" ", 2)
        app.publish(channel, payload, OpCode.TEXT, False)
    elif text[0] == "E":
        socket.send(text[2:], OpCode.TEXT, False)
    else:
        socket.subscribe(text[2:])
        socket.send("K", OpCode.TEXT, False)


def answer(response: Response, request: Request) -> None:
    response.end(request.get_full_url().partition("?")[2])


if __name__ == "__main__":
    behavior = {
        "compression": CompressOptions.DISABLED,
        "max_backpressure": 1024 * 1024,
        "idle_timeout": 120,
        "message": handle,
    }
    app.ws("/*", behavior)
    app.get("/echo", answer)
    app.listen(int(sys.argv[1]), lambda config: None)
    app.run()
