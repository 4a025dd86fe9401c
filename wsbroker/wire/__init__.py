"""The protocol between the broker and a worker: events one way, commands the other, and their framing.

* `events`: from the broker to a worker: opens, messages, closes, requests, tokens, answers
* `commands`: from a worker to the broker: sends, subscriptions, closes, tokens, questions, results, log records
* `control`: the control stream: probes, interrupted handlers, hung handlers
* `framing`: batches of tuples as bytes, packed and unpacked

A batch is a list of tuples whose first field is one of the numbers in these modules; every other field is an exact
`str`, `bytes`, `int`, `float`, `bool`, `None`, or a `tuple`/`list` of those (what `marshal` carries between any two
interpreters).

May import: `types`, `errors`, light standard library. Must never: know sockets' state, asyncio or a compiled module.
"""
