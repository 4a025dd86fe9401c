"""What `joins` measures: handlers that join channels and leave them. Light, for workers that are interpreters too."""

import wsbroker


class Joining:
    """The application: ``join a,b,c`` and ``leave a,b,c`` are answered with how many were joined or left."""

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        """Asks the broker for each channel; the answers are exact."""
        what, _, names = data.partition(" ")
        change = wsbroker.subscribe if what == "join" else wsbroker.unsubscribe
        wsbroker.send(socket_id, str(sum([change(socket_id, name) for name in names.split(",")])))
