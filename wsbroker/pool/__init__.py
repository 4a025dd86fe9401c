"""The broker's side of the workers: their start, their events and commands, their loss, replacement and end.

    pool                all workers of a server: start, stop, reload, and which worker gets a socket or request
    slot                one worker position: its worker, the standby that takes over, the replacement of a lost worker
    remote_worker       one worker at the other end of a wire: start, stop, mailbox, events and commands
    worker_states       the states of such a worker and their changes, as a table
    pending_requests    opens and HTTP requests that a worker has not answered yet
    worker_monitor      probes to one worker, and its reports on handlers that hang
    worker_stream       one stream between broker and worker: bytes to batches and back
    orphaned_closes     close handlers that a lost worker has not run
    restart_policy      when a lost worker is replaced
    log_replay          log records of workers, logged here
    start_reminder      warnings about a worker that does not finish its start
    local_api           the broker's API in the main interpreter
    tasks               the pool's background tasks
    interfaces          what the pool needs of the compiled core
    kinds/              the kinds of worker: thread, interpreter, process, inline

May import: `worker`, `wire`, `http`, `settings`, `types`, `errors`, `guarded_log`, `process_exit`, anyio and asyncio.
Must never: import `connections` or `front` (`server/node.py` hands them to one another), touch a client's connection,
or loop over single messages (only over batches). All code runs on the loop's thread unless a docstring says otherwise.
"""
