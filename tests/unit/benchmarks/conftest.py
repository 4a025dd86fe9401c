"""Makes `benchmarks`, which is not installed, importable by its path, and nothing else of the checkout."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "benchmarks"

if "benchmarks" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "benchmarks", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["benchmarks"])
