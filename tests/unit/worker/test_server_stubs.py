"""The names of the server in a worker: they can be imported and used at a module's top, and start no second server."""

import inspect
from collections.abc import Callable

import pytest

import wsbroker
from wsbroker.errors import CommandError
from wsbroker.server import api as server_api
from wsbroker.worker import api as worker_api
from wsbroker.worker import server_stubs

SERVER_NAMES = sorted(name for name, (module, _) in wsbroker._LAZY.items() if module == server_api.__name__)


def test_there_is_a_stub_of_the_same_sort_for_each_name_that_comes_from_the_server() -> None:
    assert SERVER_NAMES == ["Server", "WorkerHandle", "register_worker", "run", "serve", "start"]
    for name in SERVER_NAMES:
        stub = getattr(server_stubs, name)
        assert inspect.isclass(stub) == inspect.isclass(getattr(server_api, name)), name
        assert stub.__module__ == server_stubs.__name__, name


def test_an_interpreter_that_belongs_to_a_worker_gets_the_stubs_and_any_other_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_worker, source in ((True, server_stubs), (False, server_api)):
        monkeypatch.setattr(worker_api, "is_worker_interpreter", is_worker)
        for name in SERVER_NAMES:
            monkeypatch.setitem(vars(wsbroker), name, None)  # so that what was there is put back after the test
            del vars(wsbroker)[name]  # as if the name were used for the first time
            assert getattr(wsbroker, name) is getattr(source, name), name


@pytest.mark.parametrize("function", [server_stubs.start, server_stubs.run, server_stubs.serve])
def test_what_would_start_a_server_is_refused_by_its_name_with_what_to_do(function: Callable[..., object]) -> None:
    name = function.__name__
    expected = rf"^{name}\(\) was called in a worker, where no server can start: .* if __name__ == '__main__': or into"
    with pytest.raises(CommandError, match=expected):
        function()
    with pytest.raises(CommandError, match=expected):
        function("127.0.0.1:0", workers=2, of_a_later_version=True)


def test_a_registration_in_a_worker_does_nothing_and_returns_a_handle_of_its_spec() -> None:
    handle = server_stubs.register_worker("app")
    assert handle.spec == "app"
    handle.unregister()
    handle.unregister()
    assert handle.spec == "app"
    assert isinstance(server_stubs.register_worker(None), server_stubs.WorkerHandle), "the server has judged the spec"


def test_a_stub_has_all_public_methods_of_the_handle_that_it_stands_for() -> None:
    def find_methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert find_methods(server_stubs.WorkerHandle) == find_methods(server_api.WorkerHandle)
