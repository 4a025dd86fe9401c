"""What tests of several files share: fakes, clients, servers and models. No tests stand here.

May import: any room of `wsbroker`, and `e2e.contract.apps` where an application and its test share names.

Without sockets, processes or waiting threads (for `unit/` too):
    broker_kit        a broker with sockets that record what was written to them
    websocket_kit     frames of a client made by hand, and the events that a decoder makes of reads
    connections_kit   connections on a transport of paper, and loop turns taken by the test
    fake_broker_api   a broker of a few dictionaries behind the API that applications call
    odd_responses     values that a handler must not return, with the errors that name them
    broker_model      the sequential model of the broker: what a run of calls must lead to
    exact_history     what was seen of a random program, and the checks that one order of all calls explains it
    workload_kit      work for the core alone, compiled and interpreted: for benchmarks
    benchmark_kit     makes the folder `benchmarks` importable

With sockets or threads (for `integration/` and what stands above it):
    pool_fakes        a fake core (no sockets), and workers that are functions at the end of real streams
    pool_kit          a pool of real workers in front of the fake core; applications in pool_apps
    scripted_broker   a worker in a thread, with the broker's end of its streams in the test's hands
    front_kit         a front on a free port with a fake pool and fake connections, and a peer without manners

Whole servers (for `e2e/` and `conformance/`):
    server_process    starts and stops `python -m wsbroker`
    websocket_clients two WebSocket clients that are not ours, with one interface
    raw_peer          a TCP client that sends bytes as the test writes them
    contract_kit      a server of each worker kind with a scripted application, for `e2e/contract/`
    forked_programs   Python programs forked from a parent that has imported the package already
    log_records       the log records of a running server
    loop_thread       an event loop in a thread of its own
    exact_kit         plays random programs on a server and checks them against the model;
                      programs in exact_programs, the application in exact_app
"""
