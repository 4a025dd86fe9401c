"""What crosses between the broker and a worker: events one way, commands the other, and their framing.

* `events`: what the broker tells a worker
* `commands`: what a worker asks of the broker, and the questions
* `control`: the control stream: probes, interruptions, hung handlers
* `framing`: batches of tuples as bytes

A batch is a list of tuples whose first field is one of the numbers in these modules; every other field is an exact
`str`, `bytes`, `int`, `float`, `bool`, `None`, or a `tuple`/`list` of those (what `marshal` carries between any two
interpreters).

May import: `types`, `errors`, light standard library. Must never: know sockets' state, asyncio or a compiled module.
"""
