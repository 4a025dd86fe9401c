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

COMMANDS: Final = {
    "load": ("benchmarks.load.command:EXPERIMENT", "a server under load: fan-out, echo, storm, stall, idle, http"),
    "compare": ("benchmarks.compare.command:EXPERIMENT", "the same load on other servers, pair by pair"),
    "cores": ("benchmarks.load.variants:CORES", "handlers that compute, on all cores; what a question costs"),
    "scaling": ("benchmarks.micro.scaling:EXPERIMENT", "how the core's cost grows with subscribers and channels"),
    "http": ("benchmarks.load.variants:HTTP", "plain HTTP beside aiohttp's own server"),
    "flush": ("benchmarks.load.variants:FLUSH", "what --flush-interval saves in CPU and adds to latency"),
    "soak": ("benchmarks.soak.command", "long runs that look for leaks, losses and starvation"),
    "report": ("benchmarks.report", "all figures of docs/performance.md, and the pages that show them"),
    "all": ("benchmarks.report", "the same as report"),
}
"""By name: where the experiment stands, or the module with a `main`; and a line of help."""


def main(argv: list[str]) -> int:
    """Runs the command named by the first argument with the other arguments; returns its exit code."""
    if not argv or argv[0] not in COMMANDS:
        lines = [f"  {name:10} {summary}" for name, (_, summary) in COMMANDS.items()]
        print("\n".join(["usage: python -m benchmarks COMMAND [OPTIONS]", "", *lines]), file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if not sys.flags.safe_path and is_installed(sys.executable):
        return subprocess.run([sys.executable, "-P", __file__, *argv]).returncode
    module, _, experiment = COMMANDS[argv[0]][0].partition(":")
    found = import_module(module)
    return int(getattr(found, experiment).run(argv[1:]) if experiment else found.main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
