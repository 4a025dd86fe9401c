"""Runs the command line: `python -m wsbroker`."""

from wsbroker.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
