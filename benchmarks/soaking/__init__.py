"""The long runs behind ``python -m benchmarks.soak``: what must still be true after a lot of everything.

The server runs in a process of its own (`server`), the load in the one that was started. Each scenario is a module with
its handlers, what it asks of the server's process (a `Control`), and ``run(report, …)``.

May import: everything, the server's private parts too (a leak is where nobody looks). Must never: decide by timing; a
figure that depends on the machine is printed, and a bound on it is generous and stated.
"""
