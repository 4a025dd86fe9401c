"""Every module of the package has a test file of its name, or stands in a list with the tests that hold it and why.

`wsbroker/pool/slot.py` is mirrored by `tests/unit/pool/test_slot.py` or `tests/integration/pool/test_slot.py`. The
other way round every test file in `unit/` mirrors a module: else it is not a unit test.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
PACKAGE: Final = TESTS.parent / "wsbroker"
MIRRORS: Final = ("unit", "integration")

HELD_BY: Final[dict[str, str]] = {
    # Constants, and shapes of tuples and types: what uses them holds them.
    "types": "house/test_public_names.py",
    "broker/limits": "unit/broker/test_broker.py",
    "wire/control": "integration/worker/test_sync_runtime.py",
    "wire/events": "integration/worker/test_sync_runtime.py",
    # Interfaces: nothing runs there. mypy holds the rooms that implement them to them.
    "front/interfaces": "integration/front/test_front.py",
    "pool/interfaces": "integration/pool/test_slot.py",
    "pool/kinds/host": "integration/pool/kinds/test_every_kind.py",
    "worker/api": "unit/test_public_api.py",
    # One machine in several files: the tests drive it through its outermost one.
    "broker/channel_frames": "unit/broker/test_outgoing.py",
    "broker/delivery": "unit/broker/test_outgoing.py",
    "broker/inbox": "unit/broker/test_worker_queue.py",
    "broker/inline_queue": "unit/connections/test_inline_runner.py",
    "broker/registry": "unit/broker/test_broker.py",
    "connections/connections": "unit/connections/test_connection.py",
    "connections/turn": "unit/connections/test_connection.py",
    "front/http_connection": "integration/front/test_plain_http.py",
    "front/request_reader": "integration/front/test_request_bodies.py",
    "pool/pool": "integration/pool/test_remote_worker.py",
    "pool/start_reminder": "integration/pool/kinds/test_every_kind.py",
    "server/application_path": "unit/test_cli.py",
    "server/lifecycle": "integration/server/test_api.py",
    "settings/checks": "unit/settings/test_config.py",
    "worker/async_calls": "integration/worker/test_async_runtime.py",
    "worker/control_thread": "integration/worker/test_sync_runtime.py",
    "worker/forks": "e2e/contract/test_children.py",
    "worker/main": "integration/worker/test_sync_runtime.py",
    "worker/options": "integration/worker/test_sync_runtime.py",
    "worker/outcomes": "integration/worker/test_sync_runtime.py",
    "worker/report": "integration/worker/test_sync_runtime.py",
    "worker/signatures": "unit/worker/test_loader.py",
    "worker/wire_io": "integration/worker/test_wire_api.py",
    # What every kind of worker does alike is tested for all kinds together.
    "pool/kinds/import_names": "integration/pool/kinds/test_choice.py",
    "pool/kinds/inline": "integration/pool/kinds/test_every_kind.py",
    "pool/kinds/subinterpreters": "integration/pool/kinds/test_interpreter.py",
    "pool/kinds/thread": "integration/pool/kinds/test_every_kind.py",
    # What applications call, under its public name.
    "worker/arguments": "unit/test_public_api.py",
    "worker/base": "unit/worker/test_loader.py",
    # Runs only in a process or a server of its own.
    "__main__": "e2e/contract/test_command_line.py",
    "bench/command": "e2e/test_bench.py",
    "server/event_loop": "integration/server/test_api.py",
    "server/node": "e2e/contract/test_life.py",
    "server/signals": "e2e/contract/test_signals.py",
    "worker/entry": "integration/pool/kinds/test_process.py",
    "examples/auth": "e2e/test_examples.py",
    "examples/basic": "e2e/test_examples.py",
    "examples/chat": "e2e/test_examples.py",
    "examples/live": "e2e/test_examples.py",
    "examples/test_client": "e2e/test_examples.py",
    # What the build hook makes, and what tells of it.
    "build": "house/test_core.py",
}
"""A module without a test file of its name -> the test file that holds it; above each group stands the reason."""

NOT_MIRRORS: Final = {"test_public_api.py": "the package's `__init__`: what `import wsbroker` gives"}
NOT_OF_THE_PACKAGE: Final = {"benchmarks"}
"""Folders of `unit/` that mirror another folder of the checkout."""


def _modules() -> Iterator[Path]:
    """Yields each module of the package but the `__init__`s, relative to it, without its suffix."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield path.relative_to(PACKAGE).with_suffix("")


def test_every_module_has_a_test_file_of_its_name_or_a_reason() -> None:
    mirrored = {
        path.relative_to(TESTS / folder).with_name(path.stem.removeprefix("test_"))
        for folder in MIRRORS
        for path in (TESTS / folder).rglob("test_*.py")
    }
    missing = [str(module) for module in _modules() if module not in mirrored and module.as_posix() not in HELD_BY]
    assert missing == [], "add tests/unit/…/test_NAME.py, or a line to HELD_BY"


def test_what_holds_a_module_without_a_test_file_of_its_name_exists() -> None:
    assert [path for path in HELD_BY.values() if not (TESTS / path).exists()] == []
    modules = {module.as_posix() for module in _modules()}
    assert [module for module in HELD_BY if module not in modules] == [], "these modules are gone"


def test_every_file_of_the_unit_tests_mirrors_a_module() -> None:
    modules = set(_modules())
    strangers = []
    for path in sorted((TESTS / "unit").rglob("*.py")):
        relative = path.relative_to(TESTS / "unit")
        if relative.parts[0] not in NOT_OF_THE_PACKAGE and str(relative) not in NOT_MIRRORS:
            if relative.with_name(path.stem.removeprefix("test_")) not in modules:
                strangers.append(str(relative))
    assert strangers == [], "what tests no single module stands in tests/integration/, kits in tests/kits/"
