"""Built-in applications: handlers like anybody's, served without writing a line.

May import: the public API (`wsbroker`, `wsbroker.types`) and the standard library. Must never: reach into the
broker. What an application here needs, every application can have.
"""
