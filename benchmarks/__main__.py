"""``python -m benchmarks``: what needs processes of its own. The small benchmarks run with ``pytest benchmarks``.

In a checkout the working directory's sources would hide an installed wsbroker: if there is one, everything runs once
more in a process that does not search the working directory first.
"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

if not __package__:  # run as a file: behind everything, so that an installed wsbroker is measured
    sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.load.server import is_installed

MODULES: Final = {
    "load": "benchmarks.load.command",
    "compare": "benchmarks.compare.command",
    "cores": "benchmarks.cores",
    "scaling": "benchmarks.micro.scaling",
    "http": "benchmarks.compare.plain_http",
    "flush": "benchmarks.load.flush",
    "soak": "benchmarks.soak.command",
    "report": "benchmarks.report",
    "all": "benchmarks.report",
}
SUMMARIES: Final = {
    "load": "a server under load: fan-out, echo, storm, stall, idle, http",
    "compare": "the same load on other servers, pair by pair",
    "cores": "handlers that compute, on all cores beside one; what a question to the core costs",
    "scaling": "how the core's cost grows with subscribers, channels, subscriptions",
    "http": "plain HTTP beside aiohttp's own server",
    "flush": "what --flush-interval saves in CPU and adds to latency",
    "soak": "long runs that look for leaks, losses and starvation",
    "report": "all figures of the README, and the README's parts that show them",
    "all": "the same as report",
}


def main(argv: list[str]) -> int:
    """Runs the command named by the first argument with the other ones; returns its exit code."""
    if not argv or argv[0] not in MODULES:
        lines = [f"  {name:10} {summary}" for name, summary in SUMMARIES.items()]
        print("\n".join(["usage: python -m benchmarks COMMAND [OPTIONS]", "", *lines]), file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if not sys.flags.safe_path and is_installed(sys.executable):
        return subprocess.run([sys.executable, "-P", __file__, *argv]).returncode
    module = import_module(MODULES[argv[0]])
    run = module.EXPERIMENT.run if hasattr(module, "EXPERIMENT") else module.main
    return int(run(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
