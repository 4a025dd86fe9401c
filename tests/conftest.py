"""What holds for every test: which build is tested, and from where."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import wsbroker
from wsbroker.build import core_kind, package_version

CHECKOUT = Path(__file__).parent.parent
TESTED = Path(wsbroker.__file__).parent
WANTED = {"WSBROKER_REQUIRE_COMPILED": "compiled", "WSBROKER_REQUIRE_INTERPRETED": "interpreted"}

# How long a machine takes decides nothing. With CI set, hypothesis's own profile makes the examples the same each time.
settings.register_profile(
    "wsbroker",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("wsbroker")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--full`: tests that are marked `full` are run, too."""
    parser.addoption("--full", action="store_true", help="run the long tests too, and each worker kind everywhere")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `full`, unless it is asked for: by `--full`, or by naming a test or its file."""
    if config.getoption("--full") or any(argument.partition("::")[0].endswith(".py") for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to test another build than the one that was asked for; then forgets what the shell says to wsbroker."""
    kind = core_kind()
    for variable, wanted in WANTED.items():
        if os.environ.get(variable, "0") not in ("", "0") and kind != wanted:
            raise pytest.UsageError(f"{variable} is set, and the core in {TESTED} is {kind}")
    for name in [name for name in os.environ if name.startswith("WSBROKER_")]:
        del os.environ[name]
    if TESTED.parent == CHECKOUT:  # the sources, nothing installed: processes that tests start shall find them too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))


def pytest_collection_finish() -> None:
    """Takes what pytest keeps of some thousand tests out of the garbage collector's sight.

    A full collection looks at 2 million objects else, 0.3 s each time, and there are tests that ask for one.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """The line that says what is being tested."""
    return f"wsbroker {package_version()}, core: {core_kind()}, from {TESTED}"


@pytest.fixture(scope="session", autouse=True)
def _elsewhere() -> Iterator[None]:
    """Tests run in an empty folder: none may depend on it, and in a checkout `./wsbroker` hides what is installed."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="wsbroker-tests-") as folder:
        os.chdir(folder)
        yield
        os.chdir(before)


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio: the one library that the broker runs on."""
    return "asyncio"
