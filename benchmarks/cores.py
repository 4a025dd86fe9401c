"""Handlers that compute: how much more two workers do than one, kind by kind, and what a question to the core costs.

    python -m benchmarks cores [--seconds 2] [--rounds 3] [--workers 2] [--kinds interpreter,process] [--json FILE]

Each message costs its handler about 1 ms of JSON and hashing, all of it under the interpreter lock. The load keeps some
messages in flight on each connection and looks at no more than the number of bytes that come back, so it is nearly
idle; what it used is printed. The kinds are measured in turns, so that what else happens on the machine meets them all.
Exits with 1 if a ratio is below its aim.
"""

import argparse
import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

if not __package__:  # run as a file
    sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.claim import Claim
from benchmarks.cores_app import compute
from benchmarks.load.machine import facts
from benchmarks.load.server import Command, our_command, our_version, serving
from benchmarks.load.table import text_table

HANDLER_S: Final = 0.001
CONNECTIONS: Final = 16
IN_FLIGHT: Final = 4
WARM_UP_S: Final = 0.5
PROBE_ROUNDS: Final = 50
MORE_THAN_ONE: Final = 1.6
MORE_THAN_THREADS: Final = 1.5
ASK_US: Final = 100.0
APP: Final = Path(__file__).with_name("cores_app.py")
FRAME: Final = b"\x81\x81\0\0\0\0x"
"""A masked text message of one character."""
ANSWER_BYTES: Final = 2 + 64
ASK_FRAME: Final = b"\x81\x83\0\0\0\0ask"
ASKED: Final = 300
ASK_PAUSE_S: Final = 0.002

UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Kind(NamedTuple):
    """What is measured."""

    name: str
    workers: int

    def __str__(self) -> str:
        return f"{self.name} × {self.workers}"


class Rate(NamedTuple):
    """What came of it."""

    per_second: float
    load_percent: float
    """CPU of the load, of one core."""


def calibrate() -> int:
    """Returns how many rounds take the handler's time on this machine: by the fastest of some, others run here too."""
    times_s = []
    for _ in range(20):
        start = time.perf_counter()
        compute(PROBE_ROUNDS)
        times_s.append(time.perf_counter() - start)
    return max(1, round(PROBE_ROUNDS * HANDLER_S / min(times_s)))


def command_for(kind: Kind, rounds: int) -> Command:
    """Returns how its server is started."""
    settings = ["--worker-kind", kind.name, "--workers", str(kind.workers), "--worker-arg", str(rounds)]
    return our_command(sys.executable, settings, APP)


def connect(port: int) -> socket.socket:
    """Opens a WebSocket connection."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(UPGRADE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    if not head.startswith(b"HTTP/1.1 101"):
        raise SystemExit(f"no upgrade: {head[:80]!r}")
    return connection


def drive(port: int, seconds: float) -> Rate:
    """Keeps the server busy; counts what comes back after a warm-up."""
    selector = selectors.DefaultSelector()
    left: dict[int, int] = {}
    for _ in range(CONNECTIONS):
        connection = connect(port)
        selector.register(connection, selectors.EVENT_READ)
        left[connection.fileno()] = 0
        connection.sendall(FRAME * IN_FLIGHT)
    count = 0
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds
    start = start_cpu = 0.0
    while (now := time.perf_counter()) < end:
        if not start and now >= begin:
            start, start_cpu, count = now, time.process_time(), 0
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            connection = key.fileobj
            data = connection.recv(1 << 16)
            if not data:
                raise SystemExit("the server has closed a connection")
            answers, left[key.fd] = divmod(left[key.fd] + len(data), ANSWER_BYTES)
            count += answers
            connection.sendall(FRAME * answers)
    took_s = time.perf_counter() - start
    cpu_s = time.process_time() - start_cpu
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    selector.close()
    return Rate(count / took_s, cpu_s / took_s * 100)


def ask(port: int) -> list[float]:
    """Has a worker that does nothing else time a question for each message; returns lowest, median and p90 in µs."""
    with connect(port) as connection:
        connection.settimeout(30)
        times_us = []
        for _ in range(ASKED):
            time.sleep(ASK_PAUSE_S)
            connection.sendall(ASK_FRAME)
            times_us.append(float(connection.recv(4096)[2:]))
    times_us.sort()
    return [times_us[0], median(times_us), times_us[ASKED * 9 // 10]]


def measure(kinds: Sequence[Kind], rounds: int, seconds: float, repeats: int) -> dict[Kind, Rate]:
    """Measures all in turns; returns the medians."""
    found: dict[Kind, list[Rate]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            with serving(command_for(kind, rounds), None) as server:
                found[kind].append(drive(server.port, seconds))
    return {
        kind: Rate(median(rate.per_second for rate in rates), median(rate.load_percent for rate in rates))
        for kind, rates in found.items()
    }


def judged(rates: dict[Kind, Rate], names: Sequence[str], workers: int) -> list[Claim]:
    """Returns the ratios, and what they should be."""
    threads = Kind("thread", workers)
    found = []
    for name in names:
        many, one = Kind(name, workers), Kind(name, 1)
        for other, aim in ((one, MORE_THAN_ONE), (threads, MORE_THAN_THREADS)):
            ratio = rates[many].per_second / rates[other].per_second
            found.append(Claim(f"handlers of 1 ms a second: {many} beside {other}", ratio, f"≥ {aim:g}", ratio >= aim))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cores", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, after a warm-up  [2]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns; medians count  [3]")
    parser.add_argument("--workers", type=int, default=2, help="that are compared with one  [2]")
    default = "interpreter,process" if sys.version_info >= (3, 13) else "process"
    parser.add_argument("--kinds", default=default, help=f"separated by commas  [{default}]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    arguments = parser.parse_args(argv)
    names = arguments.kinds.split(",")
    kinds = [Kind("thread", arguments.workers)]
    kinds += [Kind(name, count) for name in names for count in (1, arguments.workers)]

    rounds = calibrate()
    version = our_version(sys.executable)
    print(*version, f"{facts()}", f"{rounds} rounds of JSON and hashing in a message", sep="\n")
    rates = measure(kinds, rounds, arguments.seconds, arguments.rounds)
    rows = [[str(kind), f"{rate.per_second:,.0f}", f"{rate.load_percent:.0f}"] for kind, rate in rates.items()]
    print("", text_table(["workers", "per second", "load %"], rows), sep="\n")
    claims = judged(rates, names, arguments.workers)
    print("", *claims, "", sep="\n")

    asked: dict[str, list[float]] = {}
    for name in ("inline", "thread", *names):
        with serving(command_for(Kind(name, 1), rounds), None) as server:
            lowest, middle, ninety = asked[name] = ask(server.port)
        what, rest = f"subscribe from an idle {name} worker, µs", f"lowest {lowest:.0f}, p90 {ninety:.0f}"
        if name == "interpreter":
            claims.append(Claim(what, middle, f"≤ {ASK_US:g}", middle <= ASK_US))
            print(f"{claims[-1]}; {rest}")
        else:
            print(f"      {what}: {middle:.0f}; {rest}")
    if arguments.json:
        found = {
            "server": version,
            "machine": facts(),
            "handlers_per_second": {str(kind): rate._asdict() for kind, rate in rates.items()},
            "subscribe_us": {
                name: dict(zip(("lowest", "p50", "p90"), each, strict=True)) for name, each in asked.items()
            },
            "claims": [claim._asdict() for claim in claims],
        }
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
