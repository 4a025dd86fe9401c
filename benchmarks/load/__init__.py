"""Load from a process of its own on a server in a process of its own, which speaks the text protocol of `app`.

    command    `python -m benchmarks load`: starts both, shows how far it is, writes the table
    job        what is asked for: the scenarios and their settings
    row        what comes out
    generator  the load's process: opens the connections, runs a scenario, measures
    loop, client, stream    what the scenarios are made of: readiness, connections, and what is expected on them
    fanout, echo, storm, stall, idle, plain (HTTP)   the scenarios
    meter      CPU and memory of the server's process

The load is Python, so that it runs wherever the broker does; it stays out of the way by looking at no frame: what must
come on a connection is known byte by byte, and each read is compared with it in one call.
"""
