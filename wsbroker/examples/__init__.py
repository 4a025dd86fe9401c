"""Runnable examples, each one a module to copy from.

May import: what any application may. Must never: need a setting to start, or hold state that a second worker
would not see: what several workers share goes through channels and tokens.
"""
