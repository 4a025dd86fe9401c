"""The memory and CPUs of a process, read from ``/proc`` and ``/sys`` trees that the tests write."""

import os
from pathlib import Path

import pytest

from wsbroker.settings import machine_limits
from wsbroker.settings.machine_limits import cpu_quota, memory_limit

MIB = 1 << 20
GIB = 1 << 30
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
MEMORY_MOUNT = "35 31 0:32 {} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
CPU_MOUNT = "32 31 0:29 {} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V1_UNLIMITED = "9223372036854771712"


def make_tree(root: Path, cgroup: str = "", mountinfo: str = "", **files: str) -> str:
    """Writes the tree of a machine of 8 GiB; `files` are under ``sys/fs/cgroup``, with ``a__b___c`` for ``a/b.c``."""
    contents = {
        "proc/meminfo": "MemTotal:        8388608 kB\nMemFree:          100000 kB\n",
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": f"23 1 0:21 / / rw - ext4 /dev/sda rw\n{mountinfo}\n",
    }
    for name, text in files.items():
        contents["sys/fs/cgroup/" + name.replace("___", ".").replace("__", "/")] = text + "\n"
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_without_cgroups_the_memory_is_the_physical_one_and_there_is_no_quota(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    assert memory_limit(root) == 8 * GIB
    assert cpu_quota(root) is None


def test_a_container_of_cgroup_v2_has_the_limits_of_its_own_group(tmp_path: Path) -> None:
    files = {"memory___max": str(512 * MIB), "cpu___max": "150000 100000"}
    root = make_tree(tmp_path, "0::/", V2_MOUNT, **files)
    assert memory_limit(root) == 512 * MIB
    assert cpu_quota(root) == 2


def test_the_smallest_limit_of_the_groups_above_counts_too(tmp_path: Path) -> None:
    files = {
        "pod__memory___max": str(300 * MIB),
        "pod__app__memory___max": str(400 * MIB),
        "pod__app__main__memory___max": "max",
        "pod__cpu___max": "400000 100000",
        "pod__app__cpu___max": "50000 200000",
        "pod__app__main__cpu___max": "max 100000",
        "other__memory___max": str(MIB),
    }
    root = make_tree(tmp_path, "0::/pod/app/main", V2_MOUNT, **files)
    assert memory_limit(root) == 300 * MIB
    assert cpu_quota(root) == 1


def test_groups_of_version_1_are_read_where_their_controller_is_mounted(tmp_path: Path) -> None:
    mounts = "\n".join((MEMORY_MOUNT.format("/"), CPU_MOUNT.format("/"), V2_MOUNT + "/unified"))
    cgroup = "5:memory:/app\n4:cpu,cpuacct:/app\n1:name=systemd:/x\n0::/"
    files = {
        "memory__memory___limit_in_bytes": V1_UNLIMITED,
        "memory__app__memory___limit_in_bytes": str(GIB),
        "cpu,cpuacct__app__cpu___cfs_quota_us": "250000",
        "cpu,cpuacct__app__cpu___cfs_period_us": "100000",
        "cpu,cpuacct__cpu___cfs_quota_us": "-1",
        "cpu,cpuacct__cpu___cfs_period_us": "100000",
    }
    root = make_tree(tmp_path, cgroup, mounts, **files)
    assert memory_limit(root) == GIB
    assert cpu_quota(root) == 3


@pytest.mark.parametrize("path", ["/docker/1f", "/elsewhere", "/../other"])
def test_a_container_that_sees_only_its_own_group_finds_it_at_the_mount_point(tmp_path: Path, path: str) -> None:
    root = make_tree(
        tmp_path,
        f"5:memory:{path}",
        MEMORY_MOUNT.format("/docker/1f"),
        memory__memory___limit_in_bytes=str(256 * MIB),
    )
    assert memory_limit(root) == 256 * MIB


def test_a_limit_above_the_physical_memory_changes_nothing(tmp_path: Path) -> None:
    assert memory_limit(make_tree(tmp_path, "0::/", V2_MOUNT, memory___max=str(64 * GIB))) == 8 * GIB


@pytest.mark.parametrize("text", ["", "max", "-1", "lots", "0"])
def test_a_limit_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    root = make_tree(tmp_path, "0::/", V2_MOUNT, memory___max=text, cpu___max=text)
    assert memory_limit(root) == 8 * GIB
    assert cpu_quota(root) is None


def test_a_mount_point_with_a_blank_is_found(tmp_path: Path) -> None:
    mount = r"31 23 0:28 / /sys/fs/cgroup/my\040groups rw - cgroup2 cgroup2 rw"
    files = {"my groups__memory___max": str(MIB)}
    assert memory_limit(make_tree(tmp_path, "0::/", mount, **files)) == MIB


def test_without_proc_the_system_is_asked_and_else_a_gibibyte_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sysconf(name: str) -> int:
        return {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 16384}[name]

    def refuse(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", sysconf, raising=False)
    assert memory_limit(str(tmp_path)) == 16_384_000
    monkeypatch.setattr(os, "sysconf", refuse)
    assert memory_limit(str(tmp_path)) == GIB
    monkeypatch.delattr(os, "sysconf")
    assert memory_limit(str(tmp_path)) == GIB
    assert cpu_quota(str(tmp_path)) is None


def test_the_limits_of_this_machine_can_be_read() -> None:
    assert memory_limit() >= MIB
    assert (cpu_quota() or 1) >= 1


def test_the_cpu_count_is_what_this_process_may_use() -> None:
    assert machine_limits.cpu_count() >= 1


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8), (2, 2), (16, 8)])
def test_a_cpu_quota_lowers_the_cpu_count(monkeypatch: pytest.MonkeyPatch, quota: int | None, cpus: int) -> None:
    monkeypatch.setattr(machine_limits, "cpu_quota", lambda: quota)
    monkeypatch.setattr(machine_limits, "_assigned_cpus", lambda: 8)
    assert machine_limits.cpu_count() == cpus
