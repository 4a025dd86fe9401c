"""Makes the package `benchmarks` importable for tests, which import this module first.

The checkout goes behind everything else on the path, so that an installed wsbroker is still tested. The processes
that a run starts inherit this path.
"""

import sys
from pathlib import Path

CHECKOUT = str(Path(__file__).parents[2])

if CHECKOUT not in sys.path:
    sys.path.append(CHECKOUT)
