"""``python -m benchmarks soak NAME``: long runs that must leave nothing behind, lose nothing and starve nobody.

    python -m benchmarks soak cycles  --kind inline|thread [--handlers sync|async] [--count 100000] [--warm-up 20000]
    python -m benchmarks soak order   --kind inline|thread|… [--count 6] [--seconds 60]
    python -m benchmarks soak joins   --kind interpreter|… [--count 10000] [--channels 8] [--workers 2] [--rounds 3]
    python -m benchmarks soak stall   [--count 64] [--size 16384] [--seconds 8] [--ping 1]
    python -m benchmarks soak busy    [--kind thread] [--seconds 60] [--workers 2]
    python -m benchmarks soak flood   [--kind thread] [--count 20] [--kib 703] [--seconds 8] [--worst 0.5]
    python -m benchmarks soak threads --kind inline|thread [--seconds 10]
    python -m benchmarks soak bodies  [--count 200]

Each prints what it measured and what it checked, and exits with 1 if anything was wrong. The server runs in a process
of its own; nothing leaves the loopback interface.
"""

import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.experiments import Claim, Experiment, Result, make_no_claims
from benchmarks.soak.bodies import Bodies
from benchmarks.soak.busy import Busy
from benchmarks.soak.cycles import Cycles
from benchmarks.soak.flood import Flood
from benchmarks.soak.joins import Joins
from benchmarks.soak.order import Order
from benchmarks.soak.run import Soak
from benchmarks.soak.stall import Stall
from benchmarks.soak.threads import Threads


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


CLAIMS: Final = {Joins: claim_joins, Busy: claim_busy}


def _format_verdict(result: Result) -> str:
    """Returns how many checks failed."""
    return f"{len(result['failures'])} wrong" if result["failures"] else "all is right"


def _make_experiment(soak: type[Soak]) -> Experiment:
    """Makes the experiment of a soak run."""
    summary = (soak.__doc__ or "").partition(".")[0]
    claims = CLAIMS.get(soak, make_no_claims)
    return Experiment(f"soak {soak.get_name()}", summary, soak.add_options, soak.measure, _format_verdict, claims)


SOAKS: Final = tuple(map(_make_experiment, (Cycles, Order, Joins, Stall, Busy, Flood, Threads, Bodies)))


def main(argv: Sequence[str]) -> int:
    """Runs the soak run named by the first argument; returns its exit code."""
    by_name = {experiment.name.partition(" ")[2]: experiment for experiment in SOAKS}
    if not argv or argv[0] not in by_name:
        lines = [f"  {name:10} {experiment.summary}" for name, experiment in by_name.items()]
        print("\n".join(["usage: python -m benchmarks soak NAME [OPTIONS]", "", *lines]), file=sys.stderr)
        return 0 if list(argv[:1]) in (["-h"], ["--help"]) else 2
    return by_name[argv[0]].run(argv[1:])
