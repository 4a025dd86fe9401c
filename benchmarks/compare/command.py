"""``python -m benchmarks compare``: prepares the peers, measures, writes table, chart and JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import readme
from benchmarks.compare.pairs import DEFAULT_LOADS, LOADS, Comparison, compare
from benchmarks.compare.prepare import contender, default_home, prepare, python_version
from benchmarks.compare.report import CHARTED, chart, notes, section, table
from benchmarks.compare.servers import PEERS, Contender, Peer, us
from benchmarks.load.machine import facts
from benchmarks.load.server import ServerError, our_version, raise_fd_limit

NAMES = [peer.name for peer in PEERS]


def main(argv: Sequence[str]) -> int:
    """Runs it and returns the exit code: 0 if WSBroker and at least one peer could be measured."""
    parser = _parser()
    options = parser.parse_args(argv)
    chosen = [peer for peer in PEERS if peer.name in options.peers]
    if options.from_json is not None:
        result = Comparison.from_dict(json.loads(options.from_json.read_text(encoding="utf-8")))
        return _write(result, options)
    problems: dict[str, str] = {}
    if options.prepare:
        problems = prepare(chosen, options.home)
        for name, problem in problems.items():
            print(f"{name}: {problem}", file=sys.stderr)
        if not options.loads and not _asked_for_results(options):
            return 1 if problems else 0
    raise_fd_limit()
    try:
        version = our_version(options.python)
    except ServerError as error:
        parser.error(str(error))
    peers, skipped = _there(chosen, options.home, problems)
    loads = options.loads or DEFAULT_LOADS
    try:
        result = compare(us(options.python, version), peers, loads, options.pairs, options.seconds, options.pin)
    except KeyboardInterrupt:
        return 130
    result.machine = facts()
    result.skipped = skipped
    theirs = python_version(options.home)
    if theirs and not any(line.startswith(f"python: {theirs} ") for line in version):
        result.problems.append(f"the peers run on Python {theirs}, WSBroker on another one: {version[-1]}")
    return _write(result, options)


def _there(chosen: Sequence[Peer], home: Path, problems: dict[str, str]) -> tuple[list[Contender], dict[str, str]]:
    """The peers that can be started; why not, for the others."""
    peers: list[Contender] = []
    skipped: dict[str, str] = {}
    for peer in chosen:
        found = contender(peer, home)
        if isinstance(found, str):
            skipped[peer.title] = problems.get(peer.name, found)
            print(f"{peer.title}: skipped: {skipped[peer.title]}", file=sys.stderr)
        else:
            peers.append(found)
    return peers, skipped


def _asked_for_results(options: argparse.Namespace) -> bool:
    return bool(options.json or options.markdown or options.svg or options.readme)


def _write(result: Comparison, options: argparse.Namespace) -> int:
    text = "\n".join([table(result), "", *notes(result)])
    print(text)
    if options.json is not None:
        options.json.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    if options.svg is not None:
        options.svg.write_text(chart(result, CHARTED), encoding="utf-8")
    if options.readme:
        readme.write("compare", section(result))
    return 0 if sum(bool(entry.cells) for entry in result.entries) > 1 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="WSBroker and other servers under the same load, in turn.",
        epilog="The peers are installed by --prepare into a folder of their own. With --prepare alone nothing is "
        "measured.",
    )
    parser.add_argument("--prepare", action="store_true", help="install the peers, or newer versions of them")
    parser.add_argument("--peers", type=_words(NAMES), default=NAMES, metavar="NAME[,…]", help=", ".join(NAMES))
    parser.add_argument(
        "--loads",
        type=_words(list(LOADS)),
        metavar="NAME[,…]",
        help=f"{', '.join(LOADS)}  [{','.join(DEFAULT_LOADS)}]",
    )
    parser.add_argument("--pairs", type=_positive, default=3, metavar="N", help="WSBroker, peer, and again  [3]")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each run  [2]")
    parser.add_argument("--home", type=Path, default=default_home(), metavar="FOLDER", help="where the peers are")
    parser.add_argument("--python", default=sys.executable, metavar="EXE", help="that has wsbroker  [this one]")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="server and load to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write table and notes there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the chart there")
    parser.add_argument(
        "--readme", action="store_true", help="put the table into the README, which shows results/compare.svg"
    )
    parser.add_argument("--from", dest="from_json", type=Path, metavar="FILE", help="measure nothing: show that JSON")
    return parser


class _words:
    """Reads names with commas between them."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in self._known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(self._known)}")
        return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
