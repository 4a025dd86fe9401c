"""Long runs that must leave nothing behind, lose nothing and starve nobody.

    python -m benchmarks.soak cycles  --kind inline|thread [--handlers sync|async] [--count 100000] [--warm-up 20000]
    python -m benchmarks.soak order   --kind inline|thread [--count 1000] [--workers N]
    python -m benchmarks.soak joins   --kind interpreter|… [--count 10000] [--channels 8] [--workers 2] [--rounds 3]
    python -m benchmarks.soak stall   [--count 64] [--size 16384] [--seconds 8]
    python -m benchmarks.soak busy    [--kind thread] [--seconds 60] [--workers 2]
    python -m benchmarks.soak flood   [--kind thread] [--count 20] [--kib 703] [--seconds 8]
    python -m benchmarks.soak threads --kind inline|thread [--seconds 10]
    python -m benchmarks.soak bodies  [--count 200]

Each prints what it measured and what it checked, and exits with 1 if anything was wrong. The server runs in a process
of its own; nothing leaves the loopback interface.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # run as a file: behind everything, so that an installed wsbroker stays the one that is measured
    sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.load.machine import facts
from benchmarks.soaking import bodies, busy, cycles, flood, joins, order, stall, threads
from benchmarks.soaking.report import Report

KINDS = ("inline", "thread", "process", *(["interpreter"] if sys.version_info >= (3, 13) else []))


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    root = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    commands = root.add_subparsers(dest="scenario", required=True)
    for name, text in {
        "cycles": "sockets that come and go in every way, and leave nothing behind",
        "order": "one history explains what 1,000 sockets on overlapping channels receive",
        "joins": "thousands of sockets join channels at once, leave, and leave nothing behind",
        "stall": "a worker that stands still costs its own sockets time, and nobody else anything",
        "busy": "worker threads get their turn while the event loop never rests",
        "flood": "sockets that send more than their worker handles, and one that does not wait for them",
        "threads": "threads that publish at full speed wait, and nobody starves",
        "bodies": "request bodies in crumbs, unfinished or left, cost nobody else time or memory",
    }.items():
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="write what was wrong and the main figures there"
        )
        if name in ("stall", "bodies"):
            continue
        if name in ("joins", "busy", "flood"):
            default = KINDS[-1] if name == "joins" else "thread"
            command.add_argument("--kind", choices=KINDS, default=default, help=f"of worker  [{default}]")
            continue
        command.add_argument("--kind", choices=("inline", "thread"), default="inline", help="of worker")
    cycling = commands.choices["cycles"]
    cycling.add_argument("--handlers", choices=("sync", "async"), default="sync")
    cycling.add_argument("--count", type=int, default=100_000, help="cycles, the warm-up included")
    cycling.add_argument("--warm-up", type=int, default=20_000, help="cycles after which the memory is first looked at")
    ordering = commands.choices["order"]
    ordering.add_argument("--workers", type=int, default=1)
    ordering.add_argument("--count", type=int, default=400, help="messages of each publisher")
    joining = commands.choices["joins"]
    joining.add_argument("--count", type=int, default=10_000, help="sockets")
    joining.add_argument("--channels", type=int, default=8, help="that each joins")
    joining.add_argument("--workers", type=int, default=2)
    joining.add_argument("--rounds", type=int, default=3, help="of coming, joining, leaving and going")
    busy_loop = commands.choices["busy"]
    busy_loop.add_argument("--workers", type=int, default=2)
    busy_loop.add_argument("--seconds", type=float, default=60, help="at most 600")
    stalling = commands.choices["stall"]
    stalling.add_argument("--count", type=int, default=64, help="MiB that are pushed")
    stalling.add_argument("--size", type=int, default=16 * 1024, help="of a message, in bytes")
    stalling.add_argument("--seconds", type=float, default=8, help="that the worker stands still after that")
    flooding = commands.choices["flood"]
    flooding.add_argument("--count", type=int, default=20, help="sockets")
    flooding.add_argument("--kib", type=int, default=703, help="that each sends, in messages of 2 bytes")
    flooding.add_argument("--seconds", type=float, default=8)
    publishing = commands.choices["threads"]
    publishing.add_argument("--count", type=int, default=1 << 40, help="messages of each thread, at most")
    publishing.add_argument("--seconds", type=float, default=10)
    publishing.add_argument("--command-bytes", type=int, default=16 << 20, help="the setting: of calls that may wait")
    commands.choices["bodies"].add_argument("--count", type=int, default=200, help="clients at a time")
    return root


def main(arguments: Sequence[str] | None = None, say: Callable[[str], object] | None = None) -> int:
    """Runs one scenario; returns the exit code.

    Args:
        arguments: of the command line; None: the process's.
        say: where lines go; None: stdout.
    """
    options = parser().parse_args(arguments)
    report = Report(options.scenario, say)
    if options.scenario == "cycles":
        cycles.run(report, options.kind, options.handlers, options.count, options.warm_up)
    elif options.scenario == "order":
        order.run(report, options.kind, options.workers, options.count)
    elif options.scenario == "joins":
        joins.run(report, options.kind, options.workers, options.count, options.channels, options.rounds)
    elif options.scenario == "busy":
        busy.run(report, options.kind, options.workers, options.seconds, sys.executable)
    elif options.scenario == "stall":
        stall.run(report, options.count << 20, options.size, options.seconds)
    elif options.scenario == "flood":
        flood.run(report, options.kind, options.count, options.kib, options.seconds)
    elif options.scenario == "threads":
        threads.run(report, options.kind, options.count, options.seconds, options.command_bytes)
    elif options.scenario == "bodies":
        bodies.run(report, options.count)
    report.say(f"{len(report.failures)} wrong" if report.failures else "all is right")
    if options.json:
        found = {
            "scenario": options.scenario,
            "kind": getattr(options, "kind", ""),
            "machine": facts(),
            "failures": report.failures,
            "numbers": report.numbers,
        }
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
