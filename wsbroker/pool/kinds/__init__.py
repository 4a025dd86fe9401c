"""The kinds of worker: how each kind starts, and which kinds can run on this machine.

    choice             resolves `worker_kind="auto"` and refuses a kind that cannot run here
    host               the thread that runs one worker, or waits for its process: the base of the next three
    thread             workers in threads of the server's interpreter
    interpreter        workers in subinterpreters
    process            workers in processes
    inline             handlers in the event loop of the broker itself
    subinterpreters    the only user of CPython's private `_interpreters`
    executable         whether `sys.executable` is a Python that can start a worker
    import_names       whether a worker has a name that another interpreter can import

May import: as `pool`. Must never: import `pool.pool`, `pool.slot` or `pool.remote_worker`, which use the kinds.
"""
