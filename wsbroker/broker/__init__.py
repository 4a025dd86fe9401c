"""Sockets, channels, subscriptions and everything that waits to be sent or handled. Sans-I/O, compiled.

    broker          Broker(Delivery): routes messages to the workers, applies their commands, replaces workers
    delivery        Delivery(Registry): sends, publishes and closes (slow consumers: 1013); flushes the turn
    registry        Registry: the tables of sockets and channels, subscriptions, tokens, questions about them
    socket          Socket(SocketInbox): state, subscriptions, outbox and flags of one connection
    channel         Channel(ChannelFrames): the members in subscription order
    channel_frames  ChannelFrames: data only, the name of a channel and its frames of this turn
    inbox           SocketInbox: the events of one socket that wait for its worker; the base of Socket
    worker_queue    WorkerQueue: the events for one worker, its credit, and the part of it that a socket may use
    inline_queue    InlineQueue: the events for handlers that run in the event loop
    outgoing        Outgoing: which socket gets which frames, their flush, the limits for waiting frames
    outbox          Outbox: data only, the frames that wait for one socket whose transport is full
    timer_wheel     TimerWheel: one deadline per socket, in ticks
    limits          Limits and Counters, and the constants of the core

May import: `websocket` (to encode frames), `wire` (to name events and commands), `types`, `errors`.
Must never: know asyncio, a transport, a clock or logging. Time comes in as an argument, facts go out as values
(`Counters`); `TurnScheduler.schedule_turn` asks the owner of the event loop for a flush.
"""
