"""The worker's side: finds the application's handlers, runs them, and carries the calls that handlers make.

What applications call:
* `api`: every call of the API (`BrokerApi`); which API object a caller gets
* `arguments`: checks the arguments of API calls
* `base`: `Worker`, the base class of handlers, and the handlers' names
* `server_stubs`: stand-ins for `start`, `run` and `register_worker` in a worker's interpreter

Finding handlers:
* `loader`: finds the handlers of a module, class or object; explains failed imports
* `signatures`: whether a handler can be called, and with how many arguments

Running handlers:
* `outcomes`: handles the end of a handler's call: answer, log record, statistics
* `sync_runtime`: runs a worker without an event loop
* `async_runtime`: runs a worker with an event loop
* `inline_runtime`: runs handlers in the broker's own event loop
* `async_calls`: one task per call of an async handler, with its time limit
* `interruption`: interrupts sync handlers whose time is over
* `report`: logs and counts failures
* `slowest`: keeps the slowest calls

A worker's life:
* `main`: a worker from its start to its end
* `entry`: the first functions that run in a subinterpreter or worker process
* `options`: how handlers are run
* `control_thread`: answers probes and checks time limits while a handler is busy
* `logs`: sends log records to the broker
* `forks`: cuts forked processes off from the server

Its end of the wire:
* `wire_api`: sends the calls of handlers: collects commands, asks questions, caches tokens
* `wire_io`: writes commands, reads events and answers
* `known_sockets`: tokens, running handlers and closes of the worker's sockets

The same code runs in every kind of worker, so it is light: some of it is loaded into each interpreter.

May import: `wire`, `http`, `types`, `errors`, `guarded_log`, `process_exit`, light standard library; asyncio, inspect
and logging only inside functions. Must never: import a compiled module, or know which kind of worker it is in (but for
`entry` and `logs`, which only the kinds load that have an interpreter of their own).
"""
