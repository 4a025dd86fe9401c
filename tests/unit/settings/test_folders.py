"""The working directory by the name that the user has for it."""

import os
import shutil
from pathlib import Path

import pytest

from wsbroker.errors import ConfigError
from wsbroker.settings.folders import absolute_path, sys_path_with_links, working_directory


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A link to the folder `releases/1`, in which the program is."""
    (tmp_path / "releases" / "1" / "inner").mkdir(parents=True)
    link = tmp_path / "current"
    link.symlink_to("releases/1")
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    return link


def test_links_stay_in_the_name_of_the_working_directory(current: Path) -> None:
    assert working_directory() == str(current)
    assert sys_path_with_links([os.getcwd(), "", "/elsewhere", str(current / "inner")]) == [
        str(current),
        str(current),
        "/elsewhere",
        str(current / "inner"),
    ]


@pytest.mark.parametrize("pwd", ["", "current", "..", "/", "/no/such/folder"])
def test_a_name_that_is_not_of_the_working_directory_is_not_believed(
    current: Path, monkeypatch: pytest.MonkeyPatch, pwd: str
) -> None:
    monkeypatch.setenv("PWD", pwd)
    assert working_directory() == os.getcwd() == str(current.resolve())
    monkeypatch.delenv("PWD")
    assert working_directory() == os.getcwd()
    assert sys_path_with_links([os.getcwd()]) == [os.getcwd()]


def test_paths_keep_their_links(current: Path) -> None:
    for path in (current / "app.py", current / "inner" / "app.py", current.resolve().parent / "up.py"):
        path.touch()
    assert absolute_path("app.py") == absolute_path("./app.py") == str(current / "app.py")
    assert absolute_path("inner/../app.py") == str(current / "app.py")
    assert absolute_path(str(current / "inner" / "app.py")) == str(current / "inner" / "app.py")
    assert absolute_path("../up.py") == f"{current}/../up.py"  # `up.py` beside `current` would be another file


def test_a_deleted_working_directory_is_an_error_that_says_what_to_do(current: Path) -> None:
    shutil.rmtree(current.resolve())
    for pwd in (True, False):
        if not pwd:
            current.resolve().mkdir()  # of the same name, but not the same folder
        with pytest.raises(ConfigError, match="^the working directory has been deleted: change into one that exists, "):
            working_directory()
        assert sys_path_with_links(["", "/x"]) == ["", "/x"]
