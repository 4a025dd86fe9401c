"""Sockets, channels, subscriptions and everything that waits to be sent or handled. Sans-I/O, compiled.

    broker        Broker: registers sockets, subscribes, sends, publishes, closes; routes messages to the workers
    commands      applies a worker's commands to the broker and answers its questions
    socket        Socket: id, token, subscriptions, outbox and inbox of one connection
    channel       Channel: the members in subscription order, and the frames published in this turn
    worker_queue  WorkerQueue: the events for one worker, its credit, and the share of each socket
    outgoing      Outgoing: the frames of a loop turn, and their flush with one write per socket
    outbox        Outbox: the frames that wait for one socket whose transport is full
    timer_wheel   TimerWheel: one deadline per socket, in ticks
    limits        Limits and Counters, and the constants of the core

May import: `websocket` (to encode frames), `wire` (to name events and commands), `types`, `errors`.
Must never: know asyncio, a transport, a clock or logging. Time comes in as an argument, facts go out as values
(`Counters`); `TurnScheduler.schedule_turn` asks the owner of the event loop for a flush.
"""
