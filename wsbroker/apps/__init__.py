"""Built-in applications: handlers as any application has them, ready to be served.

    pubsub     publish and subscribe, with JSON over WebSocket and HTTP
    access     the shared secret of `pubsub`

May import: the public API (`wsbroker`, `wsbroker.types`) and the standard library. Must never: use other modules of the
package, which applications cannot rely on.
"""
