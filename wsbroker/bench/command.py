"""The command ``wsbroker bench``: reads its arguments, prints the table, returns the exit code."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final, cast

import click

from wsbroker.bench.client import BenchError, Target
from wsbroker.bench.scenarios import DEFAULT_CONNECTIONS, SCENARIOS, BenchOptions, BenchResult, Scenario, run_scenario
from wsbroker.settings.descriptors import raise_fd_limit

BUSY_PERCENT: Final = 85.0
"""Above this share of a core used by this client, the figures say more about the client than about the broker."""


def main(argv: Sequence[str]) -> int:
    """Runs ``wsbroker bench`` with these arguments and returns the exit code."""
    try:
        parsed = _command.main(args=list(argv), prog_name="wsbroker bench", standalone_mode=False)
        if isinstance(parsed, int):  # --help
            return parsed
        options, json_file = cast("tuple[BenchOptions, str | None]", parsed)
        raise_fd_limit()
        with asyncio.Runner(loop_factory=find_loop_factory()) as runner:
            result = runner.run(run_scenario(options))
        options.show_progress("")
        if json_file != "-":
            click.echo(format_table(result))
        if json_file is not None:
            _write_json(json_file, result)
    except click.ClickException as error:
        return _report_error(2, error.format_message())
    except BenchError as error:
        return _report_error(1, str(error))
    except (KeyboardInterrupt, click.Abort):
        return 130
    return 1 if result.wrong else 0


def _report_error(code: int, text: str) -> int:
    """Prints an error of ``wsbroker bench`` as one line on stderr and returns the exit code `code`."""
    _show_progress("")
    click.echo(f"wsbroker bench: error: {text}", err=True)
    return code


def find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns what makes uvloop's event loops; None, for asyncio's own, where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def format_table(result: BenchResult) -> str:
    """Returns the figures of a run as lines of text."""
    counted = {"rtt": "round trips", "fanout": "deliveries", "storm": "connections"}[result.scenario]
    latency = "   ".join(f"{name} {_format_duration(value)}" for name, value in result.latency_us.items())
    lines = [
        f"{result.scenario}   {result.url}   {result.connections} connections, {result.seconds:.1f} s",
        f"{counted:12} {result.count:>10,}   {result.per_second:,.0f} per second",
        f"{'latency':12} {latency}",
        f"{'wrong':12} {result.wrong:>10,}{f'   {result.first_problem}' if result.first_problem else ''}",
        f"{'this client':12} {result.client_cpu_percent:>9.0f} % of a core",
    ]
    if result.client_cpu_percent > BUSY_PERCENT:
        lines.append("This client had no time left: the broker can do more than these numbers say.")
    return "\n".join(lines)


def _format_duration(us: float) -> str:
    """Returns a duration in microseconds as a text in milliseconds, such as ``0.25 ms``."""
    return f"{us / 1000:.2f} ms" if us < 10_000 else f"{us / 1000:.0f} ms"


def _write_json(file: str, result: BenchResult) -> None:
    """Writes the figures of a run as JSON to a file, or to stdout if `file` is ``-``.

    Raises:
        BenchError: the file cannot be written.
    """
    text = json.dumps(asdict(result), indent=2)
    if file == "-":
        click.echo(text)
        return
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text + "\n")
    except OSError as error:
        raise BenchError(f"cannot write {file!r}: {error.strerror}") from error


def _show_progress(line: str) -> None:
    """Replaces the last line on stderr by `line`, if stderr is a terminal; an empty line clears it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def _make_options(
    url: str,
    scenario: Scenario,
    connections: int | None,
    seconds: float,
    in_flight: int,
    size: int,
    secret: str | None,
    json_file: str | None,
) -> tuple[BenchOptions, str | None]:
    """Returns the parsed arguments as options, and the name of the JSON file. Called by click.

    Raises:
        click.UsageError: an argument, or two together, make no sense.
    """
    try:
        target = Target.from_url(url, secret or None)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    count = DEFAULT_CONNECTIONS[scenario] if connections is None else connections
    if scenario == "fanout" and count < 2:
        raise click.UsageError("fanout needs 2 connections or more: a publisher and a subscriber")
    return BenchOptions(target, scenario, count, seconds, in_flight, size, _show_progress), json_file


_command: Final = click.Command(
    "bench",
    callback=_make_options,
    help="Measures a running broker with the built-in publish/subscribe application. rtt: ping and pong; fanout: "
    "one publisher, all others subscribed; storm: connect, subscribe, close, and again.",
    params=[
        click.Argument(["url"]),
        click.Argument(["scenario"], type=click.Choice(SCENARIOS), default="rtt", required=False),
        click.Option(
            ["--connections"], type=click.IntRange(1, 20_000), help="at a time  [rtt 10, fanout 100, storm 50]"
        ),
        click.Option(["--seconds"], type=click.FloatRange(0.1, 600), default=5.0, help="how long  [5]"),
        click.Option(["--in-flight"], type=click.IntRange(1, 4096), default=16, help="fanout: on the way  [16]"),
        click.Option(["--size"], type=click.IntRange(12, 60_000), default=64, help="fanout: bytes of data  [64]"),
        click.Option(["--secret"], envvar="WSBROKER_SECRET", help="the broker's secret, or WSBROKER_SECRET"),
        click.Option(["--json", "json_file"], metavar="FILE", help="write the result there too; - for stdout"),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
