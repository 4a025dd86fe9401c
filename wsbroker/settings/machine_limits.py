"""The memory and the CPUs that this process may use: those of the machine, and the limits of its cgroups.

A container sees the memory and the CPUs of the whole machine; its limits stand in its control group and in all groups
above that. Both versions of control groups are read (v2: one tree; v1: one tree for each controller), each at its mount
point. Where a file is missing or cannot be read there is no such limit.

May import: standard library. Must never: change anything, or raise for what the system does not have.
"""

import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

ASSUMED_MEMORY_BYTES: Final = 1 << 30
"""The physical memory to assume where the system does not tell it (Windows)."""

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


def cpu_count() -> int:
    """Returns how many CPUs this process may use: those it is allowed to run on, at most its cgroups' quota."""
    quota = cpu_quota()
    return _assigned_cpus() if quota is None else min(quota, _assigned_cpus())


def _assigned_cpus() -> int:
    """Returns how many CPUs this process may run on; where the system does not tell, how many the machine has, or 1."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    elif sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:
        return os.cpu_count() or 1


def _physical_memory(root: str) -> int:
    """Returns the machine's physical memory in bytes; ASSUMED_MEMORY_BYTES where the system does not tell.

    Args:
        root: folder that holds ``proc``, whose ``meminfo`` is read; without that file `sysconf` is asked.
    """
    match = re.search(r"^MemTotal:\s+([0-9]+) kB", _read_text(Path(root) / "proc/meminfo"), re.MULTILINE)
    if match is not None:
        return int(match[1]) * _KIB
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ASSUMED_MEMORY_BYTES


def _cgroup_folders(root: str, controller: str) -> Iterator[Path]:
    """Yields the folders of this process's cgroups for a controller (``"memory"``, ``"cpu"``), of both versions.

    The process's own group comes first, then the groups above that, up to the mount point.

    Args:
        root: folder that holds ``proc`` and ``sys``.
        controller: the controller.
    """
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
    """Returns a cgroup's path relative to the cgroup `top`; ``.`` if the path does not lie below `top`.

    (A container that sees only its own groups is told the path in the whole machine.)
    """
    if ".." in path.parts or not path.is_relative_to(top):
        return PurePosixPath()
    return path.relative_to(top)


def _cgroup_mounts(root: str, controller: str) -> dict[str, tuple[str, str]]:
    """Returns where the cgroup file systems of a controller (``"memory"``, ``"cpu"``) are mounted.

    Source: proc(5), mountinfo.

    Args:
        root: folder that holds ``proc``.
        controller: the controller; in version 2 one file system has all controllers.

    Returns:
        by type (``"cgroup"``: v1, ``"cgroup2"``): the group that is the top of the mounted tree, and the mount point.
    """
    mounts: dict[str, tuple[str, str]] = {}
    for line in _read_text(Path(root) / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup2" or controller in kind[2].split(","):
            mounts.setdefault(kind[0], (_unescape_mountinfo(fields[3]), _unescape_mountinfo(fields[4])))
    return mounts


def _unescape_mountinfo(field: str) -> str:
    """Returns a field of ``/proc/self/mountinfo`` with octal escapes, as of blanks, replaced by the characters."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _read_text(path: Path) -> str:
    """Returns the stripped text of a file in ``proc`` or ``sys``; "" if the file is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""
