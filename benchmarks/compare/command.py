"""``python -m benchmarks compare``: WSBroker and other servers under the same load, in turn."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.compare.pairs import DEFAULT_LOADS, LOADS, Comparison, compare_servers
from benchmarks.compare.prepare import choose_home, find_contender, prepare_peers, read_python_version
from benchmarks.compare.report import CHARTED, draw_chart, format_notes, format_section, format_table
from benchmarks.compare.servers import PEERS, Contender, Peer, describe_ours
from benchmarks.experiments import Experiment, Result, add_pin_option, make_no_claims
from benchmarks.load.machine import read_machine
from benchmarks.load.server import raise_fd_limit, read_our_version
from benchmarks.report import write_section

NAMES: Final = [peer.name for peer in PEERS]


def measure_comparison(options: argparse.Namespace) -> Result:
    """Prepares the peers or measures, as asked, and writes the files; too few measured servers are a failure.

    Raises:
        ServerError: there is no wsbroker.
    """
    chosen = [peer for peer in PEERS if peer.name in options.peers]
    if options.from_json is not None:
        return _write_files(Comparison.from_dict(json.loads(options.from_json.read_text(encoding="utf-8"))), options)
    problems: dict[str, str] = {}
    if options.prepare:
        problems = prepare_peers(chosen, options.home)
        asks_for_results = options.loads or options.json or options.markdown or options.svg or options.readme
        if not asks_for_results:
            return {"is_prepared": True, "failures": [f"{name}: {problem}" for name, problem in problems.items()]}
    raise_fd_limit()
    version = read_our_version(options.python)
    peers, skipped = _find_peers(chosen, options.home, problems)
    ours = describe_ours(options.python, version)
    result = compare_servers(ours, peers, options.loads or DEFAULT_LOADS, options.pairs, options.seconds, options.pin)
    result.machine = read_machine()
    result.skipped = skipped
    theirs = read_python_version(options.home)
    if theirs and not any(line.startswith(f"python: {theirs} ") for line in version):
        result.problems.append(f"the peers run on Python {theirs}, WSBroker on another one: {version[-1]}")
    return _write_files(result, options)


def _find_peers(chosen: Sequence[Peer], home: Path, problems: dict[str, str]) -> tuple[list[Contender], dict[str, str]]:
    """Returns the peers that can be started, and for each of the others why not, by title."""
    peers: list[Contender] = []
    skipped: dict[str, str] = {}
    for peer in chosen:
        found = find_contender(peer, home)
        if isinstance(found, str):
            skipped[peer.title] = problems.get(peer.name, found)
            print(f"{peer.title}: skipped: {skipped[peer.title]}", file=sys.stderr)
        else:
            peers.append(found)
    return peers, skipped


def _write_files(comparison: Comparison, options: argparse.Namespace) -> Result:
    """Writes the files that the options ask for and returns the comparison as a result."""
    if options.markdown is not None:
        options.markdown.write_text(_format_text(comparison) + "\n", encoding="utf-8")
    if options.svg is not None:
        options.svg.write_text(draw_chart(comparison, CHARTED), encoding="utf-8")
    if options.readme:
        write_section("compare", format_section(comparison))
    measured = sum(bool(entry.cells) for entry in comparison.entries)
    return {**comparison.as_dict(), "failures": [] if measured > 1 else ["no peer could be measured"]}


def format_result(result: Result) -> str:
    """Returns table and notes; after --prepare alone, that the peers are installed."""
    return "the peers are installed" if "is_prepared" in result else _format_text(Comparison.from_dict(result))


def _format_text(comparison: Comparison) -> str:
    """Returns the table and its notes in Markdown."""
    return "\n".join([format_table(comparison), "", *format_notes(comparison)])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.epilog = (
        "The peers are installed by --prepare into a folder of their own. With --prepare alone nothing is measured."
    )
    parser.add_argument("--prepare", action="store_true", help="install the peers, or newer versions of them")
    parser.add_argument("--peers", type=NameList(NAMES), default=NAMES, metavar="NAME[,…]", help=", ".join(NAMES))
    parser.add_argument(
        "--loads",
        type=NameList(list(LOADS)),
        metavar="NAME[,…]",
        help=f"{', '.join(LOADS)}  [{','.join(DEFAULT_LOADS)}]",
    )
    parser.add_argument("--pairs", type=_parse_positive, default=3, metavar="N", help="WSBroker, peer, and again  [3]")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each run  [2]")
    parser.add_argument("--home", type=Path, default=choose_home(), metavar="FOLDER", help="where the peers are")
    parser.add_argument("--python", default=sys.executable, metavar="EXE", help="that has wsbroker  [this one]")
    add_pin_option(parser)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write table and notes there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the chart there")
    parser.add_argument(
        "--readme", action="store_true", help="put the table into the README, which shows results/compare.svg"
    )
    parser.add_argument("--from", dest="from_json", type=Path, metavar="FILE", help="measure nothing: show that JSON")


class NameList:
    """Parses known names with commas between them; called by argparse."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in self._known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(self._known)}")
        return names


def _parse_positive(text: str) -> int:
    """Parses a number of 1 or more; called by argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


EXPERIMENT: Final = Experiment(
    "compare", __doc__.partition("\n")[0], add_options, measure_comparison, format_result, make_no_claims
)
