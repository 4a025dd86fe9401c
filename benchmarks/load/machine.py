"""The machine that the figures were measured on."""

import os
import platform
from pathlib import Path


def read_machine() -> dict[str, object]:
    """Returns processor, cores, system and Python of this machine, and no names."""
    return {
        "processor": _find_processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _find_processor() -> str:
    """Returns the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
