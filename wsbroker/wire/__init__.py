"""What crosses between the broker and a worker: events one way, commands the other, and their framing.

A batch is a list of tuples whose first field is one of the numbers below; every other field is an exact `str`,
`bytes`, `int`, `bool`, `None`, or a `tuple`/`list` of those (what `marshal` carries between any two interpreters).

May import: `types`, `errors`, light standard library. Must never: know sockets' state, asyncio or a compiled module.
"""
