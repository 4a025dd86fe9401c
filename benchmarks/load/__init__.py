"""A load in a process of its own on a server in a process of its own, which speaks the text protocol of `app`.

    command    `python -m benchmarks load`: the options, the table, the claims
    flush      `python -m benchmarks flush`: what a flush interval saves and adds
    job        what a run is asked for: the scenario and its load
    row        what a run brings: rates, CPU, latencies, problems
    run        runs a job: the server, the load's process, and its result
    server     starts and stops servers, pinned to a core
    generator  the load's process: opens the connections, runs a scenario, measures
    stage      what a scenario works on: loop, meter, counts
    loop, client, stream, receiver    readiness, connections, and what must come on them
    fanout, echo, storm, stall, idle, plain (HTTP)    the scenarios
    meter      CPU and memory of the server's process
    machine, progress, table    the machine's name, the progress bar, the text tables
    app        the measured application

The load is Python, so that it runs wherever the broker does. It is cheap because it decodes no frame: the bytes that
must come on a connection are known, and each read is compared with them in one call.

May import: `wsbroker.bench`, `wsbroker.websocket`. Must never: import the server, which is another process.
"""
