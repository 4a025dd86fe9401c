"""A load in a process of its own on a server in a process of its own, which speaks the text protocol of `app`.

    command    `python -m benchmarks load`: the options, the claims
    variants   `flush`, `http`, `cores`: variants of a server under one load, measured in turns
    job        what a run is asked for: the pattern of the load, its rates, sizes and times
    row        what a run brings: rates, CPU, latencies, problems; medians of several runs
    table      rows and other cells as text tables
    run        runs jobs: the server, the load's process, its result; several servers take turns
    server     starts and stops servers, pinned to a core
    app        the measured application
    generator  the load's process, with the patterns echo, idle, question, storm, http
    fanout     the patterns that publish: fanout, stall
    stage      what all patterns have in common: opening, keeping a rate, warming up, measuring, draining
    stream     the messages, and the check of what comes back
    client     connections and the loop that waits for them
    meter      CPU and memory of the server's process

The load is Python, so that it runs wherever the broker does. It is cheap because it decodes no frame: the bytes that
must come on a connection are known, and each read is compared with them in one call.

May import: `wsbroker.bench`, `wsbroker.websocket`. Must never: import the server, which is another process.
"""
