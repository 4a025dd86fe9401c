"""The broker's side of the workers: kinds, mailboxes, watching, restart; and the port of the main interpreter.

May import: `wire`, `worker`, `config`, `types`, `errors`, anyio and asyncio. Must never: import `server` or `front`
(`app` hands the parts to one another), touch a client's connection, or loop over single messages (only over batches).
Everything runs on the loop's thread unless its docstring says otherwise.
"""
