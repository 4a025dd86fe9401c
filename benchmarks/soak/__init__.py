"""The long runs behind ``python -m benchmarks soak``: what must still be true after a lot of everything.

    command   the runs' options, and their published figures
    report    checks and figures, printed while a run goes on
    server    the server's process, and what it still keeps
    echo      round trips of a socket, measured in a process of its own
    apps      applications light enough for workers that are interpreters
    cycles, order, joins, stall, busy, flood, threads, bodies    the runs, each with its application

The server runs in a process of its own, the load in the one that was started.

May import: everything, the server's private parts too (`server.KEPT` names them). Must never: decide by timing alone; a
figure that depends on the machine is printed, and a bound on it is generous and stated.
"""
