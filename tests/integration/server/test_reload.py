"""The files that `--reload` watches, and the code that it refuses to load."""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from wsbroker.errors import ConfigError
from wsbroker.server import reload


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_folder_of_a_module_is_watched(folder: Path) -> None:
    (folder / "reload_me.py").write_text("")
    assert reload.find_watched_folders("reload_me:app") == [folder]


def test_the_whole_package_of_a_module_is_watched(folder: Path) -> None:
    (folder / "reload_pkg" / "inner").mkdir(parents=True)
    for place in ("", "inner"):
        (folder / "reload_pkg" / place / "__init__.py").write_text("")
    assert reload.find_watched_folders("reload_pkg.inner:app") == [folder / "reload_pkg"]


def test_what_is_not_found_leaves_the_working_directory(folder: Path) -> None:
    assert reload.find_watched_folders("there_is_no_such_module") == [Path.cwd()]


def test_a_file_that_python_cannot_read_is_named_with_its_line(folder: Path) -> None:
    (folder / "a.py").write_text("fine = 1\n")
    (folder / "b.py").write_text("fine = 1\ndef broken(:\n")
    assert reload.find_syntax_error([str(folder / "a.py"), str(folder / "gone.py")]) is None
    mistake = reload.find_syntax_error([str(folder / "a.py"), str(folder / "b.py")])
    assert mistake is not None and mistake.startswith(f"{folder / 'b.py'}, line 2: ")


def test_without_watchfiles_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--reload needs the package watchfiles: pip install 'wsbroker\[reload\]'"):
        reload.check_reload_available()


@pytest.mark.anyio
async def test_a_change_is_told_once_it_can_be_read(folder: Path) -> None:
    pytest.importorskip("watchfiles")
    told = asyncio.Event()

    mistaken = asyncio.Event()

    async def on_change() -> None:
        told.set()

    task = asyncio.create_task(reload.watch_python_files([folder], on_change, mistaken.set))
    try:
        async with asyncio.timeout(20):
            number = 0
            while not told.is_set():  # the watcher may not look yet: change it until it does
                number += 1
                (folder / "app.py").write_text(f"version = {number}\n")
                await asyncio.sleep(0.05)
            assert not mistaken.is_set()
            (folder / "app.py").write_text("def mistake(:\n")
            await mistaken.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
async def test_a_link_that_leads_elsewhere_is_a_change_and_then_the_new_folder_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.setattr(reload, "LINK_CHECK_INTERVAL_MS", 50)
    for release in ("first", "second"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "app.py").write_text("")
    current, new = tmp_path / "current", tmp_path / "new"
    current.symlink_to("first")
    told: asyncio.Queue[None] = asyncio.Queue()

    async def on_change() -> None:
        told.put_nowait(None)

    task = asyncio.create_task(reload.watch_python_files([current], on_change, lambda: None))
    try:
        async with asyncio.timeout(20):
            await asyncio.sleep(0.1)  # in which it begins
            new.symlink_to("second")
            new.replace(current)
            await told.get()
            number = 0
            while told.empty():
                number += 1
                (tmp_path / "second" / "app.py").write_text(f"version = {number}\n")
                await asyncio.sleep(0.05)
            current.unlink()  # a link that is gone is not one that leads elsewhere
            await asyncio.sleep(0.2)
            assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
async def test_a_process_that_the_new_code_forks_does_not_hold_up_the_check_and_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "forks.py").write_text(
        "import os, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child))\n"
        "def handle_http_request(request): ...\n"
    )
    async with asyncio.timeout(30):
        assert await reload.find_load_error("forks", str(tmp_path)) == ""
        child = int((tmp_path / "child").read_text())
        while _is_running(child):
            await asyncio.sleep(0.01)


def _is_running(process: int) -> bool:
    """Returns whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.anyio
async def test_an_import_error_is_the_text_and_a_check_that_is_cancelled_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wrong.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "hangs.py").write_text("import time; time.sleep(60)\n")
    async with asyncio.timeout(30):
        assert "nothing_of_this_name" in await reload.find_load_error("wrong", str(tmp_path))
        task = asyncio.create_task(reload.find_load_error("hangs", str(tmp_path)))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
