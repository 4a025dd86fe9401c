"""A server's life: start, run, reload, stop. The only room where `front`, `pool` and `connections` meet.

    api                start(), run(), serve(), register_worker(): what `wsbroker` exports
    server             class Server: what applications use of a running server
    lifecycle          what runs in the server's loop, and the thread-safe requests to it; the server's states
    waiting            waits of threads during which signals are still handled
    node               the composition root: the parts of one broker, built, started and stopped in order
    event_loop         the kind of event loop, its settings, and the end of tasks that remain in it
    signals            SIGINT, SIGTERM, SIGHUP
    application_path   makes the application that the command line names importable
    reload             watches the application's files for --reload
    redefinition       whether a worker is a new definition of the registered one
    operator_warnings  warnings about counters of the broker, at intervals
    memory_release     returns freed memory to the system, when much was freed
    standard_streams   descriptors 0 to 2 of a process that was started without them

May import: everything but `cli`, `apps`, `bench`, `testing`.
"""
