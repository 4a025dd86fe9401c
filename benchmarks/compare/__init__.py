"""The same load on other servers, alternating with WSBroker pair by pair in one run.

command  `python -m benchmarks compare`
plain_http  `python -m benchmarks http`
servers  the table of the servers: how each is started, what it needs, what it was told to do
prepare  installs the peers into an environment of their own
pairs    the measuring, and the medians
report   the Markdown table, the SVG chart, the notes on fairness
apps/    the applications, a file each, 60 lines at most
"""
