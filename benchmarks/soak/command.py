"""``python -m benchmarks soak NAME``: long runs that must leave nothing behind, lose nothing and starve nobody.

    python -m benchmarks soak cycles  --kind inline|thread [--handlers sync|async] [--count 100000] [--warm-up 20000]
    python -m benchmarks soak order   --kind inline|thread|… [--count 6] [--seconds 60]
    python -m benchmarks soak joins   --kind interpreter|… [--count 10000] [--channels 8] [--workers 2] [--rounds 3]
    python -m benchmarks soak stall   [--count 64] [--size 16384] [--seconds 8]
    python -m benchmarks soak busy    [--kind thread] [--seconds 60] [--workers 2]
    python -m benchmarks soak flood   [--kind thread] [--count 20] [--kib 703] [--seconds 8]
    python -m benchmarks soak threads --kind inline|thread [--seconds 10]
    python -m benchmarks soak bodies  [--count 200]

Each prints what it measured and what it checked, and exits with 1 if anything was wrong. The server runs in a process
of its own; nothing leaves the loopback interface.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from benchmarks.experiments import Claim, Experiment, Result, make_no_claims
from benchmarks.soak import bodies, busy, cycles, flood, joins, order, stall, threads
from benchmarks.soak.report import Report

KINDS: Final = ("inline", "thread", "process", *(["interpreter"] if sys.version_info >= (3, 13) else []))


class Option(NamedTuple):
    """An option of a soak run; its default also says its type. The choices of `kind` depend on the Python."""

    name: str
    default: int | float | str
    help: str = ""
    choices: Sequence[str] | None = None


def _make_soak(
    name: str,
    summary: str,
    run: Callable[[Report, argparse.Namespace], None],
    *options: Option,
    claims: Callable[[Result], list[Claim]] = make_no_claims,
) -> Experiment:
    """Makes the experiment of a soak run from its options and the function that runs it."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        for option in options:
            flag = "--" + option.name.replace("_", "-")
            text = f"{option.help}  [{option.default}]"
            parser.add_argument(
                flag, type=type(option.default), default=option.default, choices=option.choices, help=text
            )

    def measure(options: argparse.Namespace) -> Result:
        report = Report(name)
        run(report, options)
        return {
            "scenario": name,
            "kind": getattr(options, "kind", ""),
            "failures": report.failures,
            "numbers": report.numbers,
        }

    return Experiment(f"soak {name}", summary, add_options, measure, _format_verdict, claims)


def _format_verdict(result: Result) -> str:
    """Returns how many checks failed."""
    return f"{len(result['failures'])} wrong" if result["failures"] else "all is right"


def claim_joins(result: Result) -> list[Claim]:
    """Returns the rate of joins and the memory that grew; [] after a single round."""
    numbers = result["numbers"]
    if "grown_bytes" not in numbers:
        return []
    sockets, channels, rates = numbers["sockets"][0], numbers["channels_each"][0], numbers["joins_per_s"]
    return [
        Claim(
            f"{sockets:,.0f} sockets join {channels:.0f} channels each at once, "
            f"by handlers in 2 {result['kind']} workers",
            f"{min(rates):,.0f} to {max(rates):,.0f} joins/s",
        ),
        Claim(
            f"memory grown from the first such round to the last of {len(rates)}, all joined",
            f"{numbers['grown_bytes'][-1] / 2**20:.1f} MiB",
            "nothing kept",
            not result["failures"],
        ),
    ]


def claim_busy(result: Result) -> list[Claim]:
    """Returns the round trips of an echo and of a question to the broker; [] if there were none."""
    numbers = result["numbers"]
    if "echo_ms" not in numbers:
        return []
    seconds = f"{numbers['seconds'][0]:.0f}"
    return [
        Claim(
            f"{subject} of a worker thread, loop saturated for {seconds} s: p50, p99, worst",
            ", ".join(f"{ms:.1f}" for ms in numbers[name]) + " ms",
            "worst ≤ 1 s",
            not result["failures"],
        )
        for subject, name in (("echo", "echo_ms"), ("question", "question_ms"))
    ]


_any_kind = partial(Option, "kind", help="of worker", choices=KINDS)
_near_kind: Final = Option("kind", "inline", "of worker", ("inline", "thread"))

SOAKS: Final = (
    _make_soak(
        "cycles",
        "sockets that come and go in every way, and leave nothing behind",
        lambda report, o: cycles.run(report, o.kind, o.handlers, o.count, o.warm_up),
        _near_kind,
        Option("handlers", "sync", choices=("sync", "async")),
        Option("count", 100_000, "cycles, the warm-up included"),
        Option("warm_up", 20_000, "cycles after which the memory is first looked at"),
    ),
    _make_soak(
        "order",
        "one order explains what all sockets, workers and threads saw",
        lambda report, o: order.run(report, o.kind, o.count, o.seconds),
        _any_kind(default="inline"),
        Option("count", 6, "random programs of each test"),
        Option("seconds", 0.0, "how long each test plays programs, instead of --count"),
    ),
    _make_soak(
        "joins",
        "thousands of sockets join channels at once, leave, and leave nothing behind",
        lambda report, o: joins.run(report, o.kind, o.workers, o.count, o.channels, o.rounds),
        _any_kind(default=KINDS[-1]),
        Option("count", 10_000, "sockets"),
        Option("channels", 8, "that each joins"),
        Option("workers", 2),
        Option("rounds", 3, "of coming, joining, leaving and going"),
        claims=claim_joins,
    ),
    _make_soak(
        "stall",
        "a worker that stands still costs its own sockets time, and nobody else anything",
        lambda report, o: stall.run(report, o.count << 20, o.size, o.seconds),
        Option("count", 64, "MiB that are pushed"),
        Option("size", 16 * 1024, "of a message, in bytes"),
        Option("seconds", 8.0, "that the worker stands still after that"),
    ),
    _make_soak(
        "busy",
        "worker threads get their turn while the event loop never rests",
        lambda report, o: busy.run(report, o.kind, o.workers, o.seconds, sys.executable),
        _any_kind(default="thread"),
        Option("workers", 2),
        Option("seconds", 60.0, "at most 600"),
        claims=claim_busy,
    ),
    _make_soak(
        "flood",
        "sockets that send more than their worker handles, and one that does not wait for them",
        lambda report, o: flood.run(report, o.kind, o.count, o.kib, o.seconds),
        _any_kind(default="thread"),
        Option("count", 20, "sockets"),
        Option("kib", 703, "that each sends, in messages of 2 bytes"),
        Option("seconds", 8.0),
    ),
    _make_soak(
        "threads",
        "threads that publish at full speed wait, and nobody starves",
        lambda report, o: threads.run(report, o.kind, o.count, o.seconds, o.command_bytes),
        _near_kind,
        Option("count", 1 << 40, "messages of each thread, at most"),
        Option("seconds", 10.0),
        Option("command_bytes", 16 << 20, "the setting: of calls that may wait"),
    ),
    _make_soak(
        "bodies",
        "request bodies in crumbs, unfinished or left, cost nobody else time or memory",
        lambda report, o: bodies.run(report, o.count),
        Option("count", 200, "clients at a time"),
    ),
)


def main(argv: Sequence[str]) -> int:
    """Runs the soak run named by the first argument; returns its exit code."""
    by_name = {experiment.name.partition(" ")[2]: experiment for experiment in SOAKS}
    if not argv or argv[0] not in by_name:
        lines = [f"  {name:10} {experiment.summary}" for name, experiment in by_name.items()]
        print("\n".join(["usage: python -m benchmarks soak NAME [OPTIONS]", "", *lines]), file=sys.stderr)
        return 0 if list(argv[:1]) in (["-h"], ["--help"]) else 2
    return by_name[argv[0]].run(argv[1:])
