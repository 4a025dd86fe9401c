"""What shows how fast and how frugal the broker is: `python -m benchmarks` and `pytest benchmarks`; see README.md."""
