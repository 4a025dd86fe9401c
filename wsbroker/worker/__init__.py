"""The worker's side: finds the application's handlers, runs them, and is where the calls of the API go.

The same code runs in every kind of worker, so it is light: some of it is loaded into each interpreter.

May import: `wire`, `types`, `errors`, light standard library; asyncio, inspect and logging only inside functions, when
they are needed. Must never: import a compiled module, or know which kind of worker it is in (but for `entry`, where the
kinds that have an interpreter of their own begin; it and `logs` are loaded only there).
"""
