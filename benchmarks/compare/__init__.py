"""The same load on other servers, alternating with WSBroker pair by pair in one run.

command  `python -m benchmarks compare`: the loads, the measuring, the options
peers    the table of the servers; how each is installed, found and started
report   the Markdown table, the SVG chart, the notes on fairness
apps/    the applications, a file each, 60 lines at most
"""
