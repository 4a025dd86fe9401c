"""``python -m benchmarks``: what needs processes of its own. The small ones run with ``pytest benchmarks``.

In a checkout the working directory's sources would hide a wsbroker that is installed: if there is one, everything runs
once more in a process that does not look there first.
"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

if not __package__:  # run as a file: behind everything, so that an installed wsbroker is what is measured
    sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.load.server import is_installed

COMMANDS: Final = {
    "load": ("benchmarks.load.command", "a server under load: fan-out, echo, storm, stall, idle"),
    "compare": ("benchmarks.compare.command", "the same load on other servers, pair by pair"),
    "cores": ("benchmarks.cores", "handlers that compute, on all cores beside one; what a question to the core costs"),
    "scaling": ("benchmarks.scaling", "how the core's cost grows with subscribers, channels, subscriptions"),
    "http": ("benchmarks.web", "plain HTTP beside aiohttp's own server"),
    "flush": ("benchmarks.windows", "what --flush-interval saves in CPU and adds to latency"),
    "soak": ("benchmarks.soak", "long runs that look for leaks, losses and starvation"),
    "report": ("benchmarks.report", "all figures of the README, and the README's parts that show them"),
}


def main(argv: list[str]) -> int:
    """Hands the arguments to the command that they begin with; returns its exit code."""
    if not argv or argv[0] not in COMMANDS:
        lines = [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
        print("\n".join(["usage: python -m benchmarks COMMAND [OPTIONS]", "", *lines]), file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if not sys.flags.safe_path and is_installed(sys.executable):
        return subprocess.run([sys.executable, "-P", __file__, *argv]).returncode
    return int(import_module(COMMANDS[argv[0]][0]).main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
