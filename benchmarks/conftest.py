"""Says which build is measured."""

from pathlib import Path

import wsbroker
from wsbroker.build import core_kind, version


def pytest_report_header() -> str:
    """The line that says what is being measured."""
    return f"wsbroker {version()}, core: {core_kind()}, from {Path(wsbroker.__file__).parent}"
