"""Experiments on variants of a server, measured in turns. Medians count.

    python -m benchmarks flush [--windows 0,1,5,20] [--rate 1000] [--connections 100] [--rounds 3] [--json FILE]
    python -m benchmarks http  [--rounds 5] [--connections 64] [--seconds 2] [--json FILE]
    python -m benchmarks cores [--seconds 2] [--rounds 3] [--kinds interpreter,process] [--json FILE]

`flush`: what ``--flush-interval`` saves in CPU and adds to latency. Publications come at a fixed rate, each in a turn
of its own, so that without a window there is nothing to join: one write for each message and subscriber.

`http`: plain HTTP beside aiohttp's own web server, which parses and writes ours too: what the broker's front adds. The
same work in both handlers (the query is sent back as text). aiohttp is the version that WSBroker is installed with.

`cores`: handlers that compute for about 1 ms, all of it under the interpreter lock, so the load is nearly idle: how
much more two workers do than one, kind by kind. Then what a question to the core costs a handler of an idle worker.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.experiments import Claim, Experiment, Result, add_pin_option, claim_at_least, claim_at_most
from benchmarks.load.app import compute_digest
from benchmarks.load.job import PRESETS, Job, add_job_options
from benchmarks.load.row import merge_rows
from benchmarks.load.run import Variant, find_ratio, measure_in_turns
from benchmarks.load.server import Command, Cores, build_our_command, raise_fd_limit, read_our_version
from benchmarks.load.table import format_columns, format_rows

WINDOWS: Final = Job("fanout", connections=100, rate=1000.0, seconds=3.0, runs=1)
REQUESTS: Final = Job("http", connections=64, runs=1)
BESIDE_AIOHTTP: Final = 1.3
"""CPU per request, as a multiple of aiohttp's."""
AIOHTTP_APP: Final = Path(__file__).parents[1] / "compare" / "apps" / "aiohttp_app.py"
COMPUTING: Final = Job("echo", connections=16, in_flight=4, runs=1)
WORKERS: Final = 2
"""So many are compared with one."""
EVERYWHERE: Final = Cores(None, None)
"""Server and load are free to use all cores."""
HANDLER_S: Final = 0.001
PROBE_ROUNDS: Final = 50
MORE_THAN_ONE: Final = 1.6
MORE_THAN_THREADS: Final = 1.5
QUESTION_US: Final = 100.0


def measure_variants(variants: Sequence[Variant], rounds: int, cores: Cores, python: str = sys.executable) -> Result:
    """Measures variants in turns; returns a row of medians for each, and a failure for each row that was wrong.

    Args:
        python: has the wsbroker that is measured.

    Returns: `rows` with name, job, figures, and in `beside` the CPU as a multiple of the first variant's; `server`;
        `failures`.

    Raises:
        ServerError: there is no wsbroker.
    """
    failures: list[str] = []
    server = read_our_version(python)
    raise_fd_limit()
    turns = measure_in_turns(variants, rounds, cores, failures)
    rows = []
    for index, variant in enumerate(variants):
        found = [row for turn in turns if (row := turn[index]) is not None]
        if found:
            figures = merge_rows(found).as_dict()
            beside = find_ratio(turns, index) if index else None
            rows.append({"name": variant.name, "job": variant.job.as_dict(), "beside": beside, **figures})
    return {"server": server, "rows": rows, "failures": failures}


def format_variants(result: Result) -> str:
    """Returns the version of the server and the table of the variants."""
    return "\n".join([", ".join(result["server"]), format_rows(result["rows"]), ""])


def _make_experiment(
    name: str,
    summary: str,
    measure: Callable[[argparse.Namespace], Result],
    claims: Callable[[Result], list[Claim]],
    base: Job,
    fields: Sequence[str],
    rounds: int = 3,
    is_pinned: bool = True,
    table: Callable[[Result], str] = format_variants,
    **more: object,
) -> Experiment:
    """Makes an experiment with options for rounds and for these fields of its job.

    Args:
        is_pinned: adds ``--pin``, which is on; without, server and load are free to use all cores.
        base: the job; `measure` finds it in the options as `job`, with the fields that were given.
        more: further options with their defaults, texts.
    """

    def add_options(parser: argparse.ArgumentParser) -> None:
        add_job_options(parser, fields, base)
        help_text = f"measurements of each, in turns; medians count  [{rounds}]"
        parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=help_text)
        for option, default in more.items():
            parser.add_argument(f"--{option}", default=default, help=f"[{default}]")
        if is_pinned:
            add_pin_option(parser)

    def measure_job(options: argparse.Namespace) -> Result:
        options.job = replace(base, **{field: getattr(options, field) for field in fields})
        return measure(options)

    return Experiment(name, summary, add_options, measure_job, table, claims)


# flush --------------------------------------------------------------------------------------------------------------


def measure_flush(options: argparse.Namespace) -> Result:
    """Measures each window in turn, as many rounds as asked; returns a row for each."""
    variants = []
    for window in options.windows.split(","):
        settings = ["--worker-kind", "inline", "--flush-interval", f"{window}ms"]
        variants.append(Variant(f"{window} ms", options.job, build_our_command(sys.executable, settings)))
    return measure_variants(variants, options.rounds, Cores.choose(options.pin))


def claim_flush(result: Result) -> list[Claim]:
    """Returns CPU, p50 and p99 of each window, which are held to nothing."""
    rows = [(row["name"], row["cpu_us"], row["latency_us"]) for row in result["rows"]]
    return [Claim(name, f"{us:.2f} µs, {ms['p50'] / 1e3:.1f} ms, {ms['p99'] / 1e3:.1f} ms") for name, us, ms in rows]


# http ---------------------------------------------------------------------------------------------------------------


def measure_http(options: argparse.Namespace) -> Result:
    """Measures aiohttp and WSBroker in turn; returns a row for each."""
    command = Command([sys.executable, str(AIOHTTP_APP), "{port}"])
    theirs = Variant(f"aiohttp {version('aiohttp')}", options.job, command)
    ours = Variant("WSBroker", options.job, build_our_command(sys.executable, ["--worker-kind", "inline"]))
    return measure_variants([theirs, ours], options.rounds, Cores.choose(options.pin))


def claim_http(result: Result) -> list[Claim]:
    """Returns the CPU per request beside aiohttp's."""
    subject = "plain HTTP, {} in flight: CPU per request beside aiohttp"
    rows = [row for row in result["rows"] if row["beside"] is not None]
    return [claim_at_most(subject.format(row["job"]["connections"]), row["beside"], BESIDE_AIOHTTP) for row in rows]


# cores --------------------------------------------------------------------------------------------------------------


def measure_cores(options: argparse.Namespace) -> Result:
    """Measures the handlers' rates of all kinds and counts, then the questions of an idle worker of each kind."""
    kinds = options.kinds.split(",")
    job = replace(options.job, work=calibrate_work())
    workers = [("thread", WORKERS), *((kind, count) for kind in kinds for count in (1, WORKERS))]
    computing = [Variant(f"{kind} × {count}", job, _build_workers(kind, count)) for kind, count in workers]
    (question,) = PRESETS["question"]
    questions = [Variant(kind, question, _build_workers(kind, 1)) for kind in ("inline", "thread", *kinds)]
    rates = measure_variants(computing, options.rounds, EVERYWHERE)
    asked = measure_variants(questions, 1, EVERYWHERE)
    failures = rates["failures"] + asked["failures"]
    return {**rates, "questions": asked["rows"], "failures": failures, "kinds": kinds}


def calibrate_work() -> int:
    """Returns how many rounds of computing take HANDLER_S on this machine, by the fastest of 20 tries."""
    times_s = []
    for _ in range(20):
        start_s = time.perf_counter()
        compute_digest(PROBE_ROUNDS)
        times_s.append(time.perf_counter() - start_s)
    return max(1, round(PROBE_ROUNDS * HANDLER_S / min(times_s)))


def _build_workers(kind: str, count: int) -> Command:
    """Returns the command that starts a server with so many workers of a kind."""
    return build_our_command(sys.executable, ["--worker-kind", kind, "--workers", str(count)])


def format_cores(result: Result) -> str:
    """Returns the table of the rates, and that of the questions, whose latencies are those of `subscribe`."""
    heads = ["subscribe from an idle worker, µs", "p50", "p90", "p99"]
    questions = [
        [row["name"], *(f"{row['latency_us'][each]:.0f}" for each in heads[1:])] for row in result["questions"]
    ]
    return "\n".join([format_variants(result), format_columns(heads, questions), ""])


def claim_cores(result: Result) -> list[Claim]:
    """Returns the ratios of two workers beside one and beside two threads, and the questions' medians."""
    rates, count = {row["name"]: row["rate"] for row in result["rows"]}, WORKERS
    claims = []
    for kind in result["kinds"]:
        many = f"{kind} × {count}"
        for other, aim in ((f"{kind} × 1", MORE_THAN_ONE), (f"thread × {count}", MORE_THAN_THREADS)):
            if many in rates and other in rates:
                subject = f"handlers of 1 ms a second: {many} beside {other}"
                claims.append(claim_at_least(subject, rates[many] / rates[other], aim))
    p50_us = {row["name"]: row["latency_us"]["p50"] for row in result["questions"]}
    if "interpreter" in p50_us:
        us = p50_us.pop("interpreter")
        claims.append(claim_at_most("subscribe from an idle interpreter worker, µs", us, QUESTION_US))
    subject = f"the same from a worker of kind {', '.join(p50_us)}"
    return [*claims, Claim(subject, ", ".join(f"{us:.0f}" for us in p50_us.values()))]


FLUSH: Final = _make_experiment(
    "flush",
    "what --flush-interval saves in CPU and adds to latency",
    measure_flush,
    claim_flush,
    WINDOWS,
    ("rate", "connections", "size", "seconds"),
    windows="0,1,5,20",
)
HTTP: Final = _make_experiment(
    "http",
    "plain HTTP beside aiohttp's own server",
    measure_http,
    claim_http,
    REQUESTS,
    ("connections", "seconds"),
    rounds=5,
)
CORES: Final = _make_experiment(
    "cores",
    "handlers that compute, on all cores beside one; what a question to the core costs",
    measure_cores,
    claim_cores,
    COMPUTING,
    ("seconds",),
    is_pinned=False,
    table=format_cores,
    kinds="interpreter,process" if sys.version_info >= (3, 13) else "process",
)
