"""How much memory and how many CPUs the machine gives this process: physical memory, and the limits of its cgroups.

A container sees the memory and the CPUs of the whole machine; what it may use of them stands in the control groups that
it runs in, its own and all above it. Both versions are read (v2: one tree; v1: one tree for each controller), each at
the place where it is mounted. Where a file is missing or cannot be read there is no such limit.

May import: standard library. Must never: change anything, or raise for what the system does not have.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

ASSUMED_MEMORY_BYTES: Final = 1 << 30
"""What stands in for the physical memory where the system does not tell it (Windows)."""

_KIB: Final = 1024


def memory_limit(root: str = "/") -> int:
    """Returns the bytes of memory this process may use: the smallest of the physical memory and its cgroups' limits.

    Args:
        root: folder that holds ``proc`` and ``sys``; tests make their own.
    """
    limits = [_physical_memory(root)]
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # v2, v1
            text = _read_text(folder / name)
            if text.isdigit() and int(text) > 0:  # v2 says "max" for none, v1 a number beyond any memory
                limits.append(int(text))
    return min(limits)


def cpu_quota(root: str = "/") -> int | None:
    """Returns how many CPUs' time the cgroups give this process, rounded up, at least 1; None if they set no quota.

    Args:
        root: folder that holds ``proc`` and ``sys``; tests make their own.
    """
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        v1 = f"{_read_text(folder / 'cpu.cfs_quota_us')} {_read_text(folder / 'cpu.cfs_period_us')}"
        for text in (_read_text(folder / "cpu.max"), v1):
            match = re.fullmatch(r"([0-9]+) ([0-9]+)", text)  # "max 100000" or "-1 100000": none
            if match is not None and int(match[2]) > 0:
                quotas.append(int(match[1]) / int(match[2]))
    return max(1, math.ceil(min(quotas))) if quotas else None


def _physical_memory(root: str) -> int:
    match = re.search(r"^MemTotal:\s+([0-9]+) kB", _read_text(Path(root) / "proc/meminfo"), re.MULTILINE)
    if match is not None:
        return int(match[1]) * _KIB
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ASSUMED_MEMORY_BYTES


def _cgroup_folders(root: str, controller: str) -> Iterator[Path]:
    """Yields the folders of this process's cgroups for a controller, of both versions: its own first, then those above
    it up to the mount point."""
    mounts = _cgroup_mounts(root, controller)
    for line in _read_text(Path(root) / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mount = mounts.get("cgroup" if controllers else "cgroup2")
        if mount is None:
            continue
        top, point = mount
        below = _path_below(PurePosixPath(path), PurePosixPath(top))
        base = Path(root) / point.lstrip("/")
        yield base / below
        yield from (base / parent for parent in below.parents)


def _path_below(path: PurePosixPath, top: PurePosixPath) -> PurePosixPath:
    """The path below the cgroup that is mounted; that one itself (``.``) if the path does not lie below it, as in a
    container that sees only its own groups but is told the machine's path."""
    if ".." in path.parts or not path.is_relative_to(top):
        return PurePosixPath()
    return path.relative_to(top)


def _cgroup_mounts(root: str, controller: str) -> dict[str, tuple[str, str]]:
    """The type of each cgroup file system -> the group that is its top, and its mount point (proc(5), mountinfo)."""
    found: dict[str, tuple[str, str]] = {}
    for line in _read_text(Path(root) / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup2" or controller in kind[2].split(","):
            found.setdefault(kind[0], (_unescape_mountinfo(fields[3]), _unescape_mountinfo(fields[4])))
    return found


def _unescape_mountinfo(field: str) -> str:
    """A field of mountinfo; blanks and backslashes stand there as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _read_text(path: Path) -> str:
    """The text of a file, stripped; empty where there is none or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""
