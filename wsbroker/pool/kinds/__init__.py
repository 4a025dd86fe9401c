"""The kinds of worker: how each kind starts, and which kinds can run on this machine.

    choice             chooses the kind and number of workers; refuses a kind that cannot run here
    host               the thread that runs one worker, or waits for its process: the base of the next three
    thread             workers in threads of the server's interpreter
    interpreter        workers in subinterpreters
    process            workers in processes
    inline             handlers in the event loop of the broker itself
    subinterpreters    creates, runs and destroys subinterpreters, by CPython's private `_interpreters`
    executable         whether `sys.executable` is a Python that can start a worker
    import_names       whether the handlers have a name by which another interpreter can import them

May import: as `pool`. Must never: import `pool.pool`, `pool.slot` or `pool.remote_worker`, which use the kinds.
"""
