"""The long runs behind ``python -m benchmarks soak``: what must still be true after a lot of everything.

    command   the runs by name, and their published figures
    run       the runner: server, probes, load, samples, checks
    report    checks and figures, printed while a run goes on
    app       the application of all runs: light enough for workers that are interpreters
    server    what runs in the server's process, and what it still keeps
    process   the processes beside the load's: the server, and probes of round trips
    cycles, order, joins, stall, busy, flood, threads, bodies    the runs: options, bounds, load

The server runs in a process of its own, the load in the one that was started.

May import: everything, the server's private parts too (`server.KEPT` names them). Must never: decide by timing alone; a
figure that depends on the machine is printed, and a bound on it is generous and stated.
"""
