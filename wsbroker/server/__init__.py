"""A server's life: start, run, reload, stop. The only room where `front`, `pool` and `connections` meet.

    api                start(), run(), serve(), register_worker(): what `wsbroker` exports
    server             class Server: one running server, asked from any thread
    node               the composition root: the parts of one broker, built, started and stopped in order
    event_loop         which event loop, its settings, and what happens to tasks left in it
    signals            SIGINT, SIGTERM, SIGHUP
    reload             watching the application's files
    redefinition       whether a worker class is a new definition of a registered one
    operator_warnings  warnings about what the core counts, at intervals
    memory_release     gives freed memory back to the system
    standard_streams   descriptors 0 to 2 of a process that was started without them

May import: everything but `cli`, `apps`, `bench`, `testing`.
"""
