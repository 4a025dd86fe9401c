"""Stall: some subscribers stop reading; measures the latency of the others and the server's memory.

Measured twice at the same rate: first all subscribers read, then some do not. The result has latency and memory of
both parts.
"""

from benchmarks.load.client import Client, ignore_client
from benchmarks.load.fanout import Fanout
from benchmarks.load.row import Row
from benchmarks.load.stage import Stage


def run(stage: Stage) -> Row:
    """Runs the scenario; the row is the part with stalled subscribers, `extra` has figures of the part before."""
    job = stage.job
    fanout = Fanout(stage)
    stage.run_for(job.warmup_s, fanout.take_turn, "warm up")
    before = stage.measure_run(fanout.take_turn, "all are reading")

    count = max(job.connections * job.stalled // 100, 1)
    stalled = set(range(1, job.connections, job.connections // count))  # next to the probes, which go on
    for index in stalled:
        receiver = fanout.receivers[index]
        stage.loop.pause_reads(receiver.client.fd)
        receiver.client.on_end = ignore_client
        receiver.stop_counting()
        fanout.channels[index % job.channels].remove_subscriber(receiver)
    row = stage.measure_run(fanout.take_turn, f"{len(stalled)} have stopped reading")

    row.extra = {
        **{f"{name}_before": value for name, value in before.latency_us.items()},
        "rss_before": before.rss_peak,
        "stalled": float(len(stalled)),
    }
    fanout.is_publishing = False
    fanout.stage.drain_until(fanout.take_turn, lambda: all(channel.is_quiet for channel in fanout.channels))
    row.extra["cut_off"] = float(_count_cut_off(stage, [fanout.receivers[index].client for index in stalled]))
    fanout.receivers = [receiver for index, receiver in enumerate(fanout.receivers) if index not in stalled]
    return fanout.finish_run(row)


def _count_cut_off(stage: Stage, clients: list[Client]) -> int:
    """Reads what waits for the stalled clients; returns how many of them the server has closed."""
    for client in clients:
        stage.loop.resume_reads(client.fd)
    stage.drain_until(stage.loop.take_turn, lambda: all(_is_closed(client) for client in clients))
    found = sum(_is_closed(client) for client in clients)
    for client in clients:
        client.reset_connection()
    return found


def _is_closed(client: Client) -> bool:
    """Whether the server has ended or closed this connection."""
    return client.has_ended or client.close_code is not None
