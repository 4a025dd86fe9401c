"""Kind `thread`: handlers run in a daemon thread of the main interpreter. A stuck worker cannot be ended."""

import socket

from wsbroker.pool.kinds.host import WorkerHost
from wsbroker.worker.main import worker_main


class ThreadHost(WorkerHost):
    """Runs `worker_main` in the host's own thread; `sys.path` and live objects are shared with the server."""

    def run(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Runs the worker's handlers in this thread until the worker has stopped."""
        worker_main(
            wire_end,
            control_end,
            self.start_arguments.sys_path,
            self.start_arguments.spec,
            self.start_arguments.options,
        )
