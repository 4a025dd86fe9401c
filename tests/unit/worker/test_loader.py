"""Finding handlers: every kind of spec, every signature, and the sentence for everything that can be wrong."""

import functools
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import wsbroker
from wsbroker.worker.base import HANDLER_ARGUMENTS
from wsbroker.worker.loader import load_handlers


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes modules that can be imported, and forgets them afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def problem(spec: object) -> str:
    """What is wrong with a spec."""
    with pytest.raises(wsbroker.ConfigError) as caught:
        load_handlers(spec)
    return str(caught.value)


def one(function: Callable[..., object], name: str = "handle_socket_message") -> types.SimpleNamespace:
    """An object with one handler."""
    return types.SimpleNamespace(**{name: function})


# Specs. ---------------------------------------------------------------------------------------------------------------

Write = Callable[[str, str], None]


def test_a_module_is_found_by_name_and_taken_as_it_is(package: Write) -> None:
    package("some_app.py", "def handle_socket_message(data, socket_id): ...\nasync def handle_http_request(): ...")
    found = load_handlers("some_app")
    assert found.names == ("handle_socket_message", "handle_http_request")
    assert found.is_async and found.source == "some_app"
    assert found.message_arity == 2 and found.open is None
    assert load_handlers(sys.modules["some_app"]).raw_message_handler is found.raw_message_handler


def test_objects_classes_and_attributes_of_modules_are_found_by_name(package: Write) -> None:
    package(
        "some_pkg/app.py",
        "class Chat:\n"
        "    made = 0\n"
        "    def __init__(self): type(self).made += 1\n"
        "    def handle_worker_stop(self): return self.made\n"
        "class Box: chat = Chat()\n"
        "chat = Chat()\n",
    )
    package("some_pkg/__init__.py", "")
    for spec, made in (("some_pkg.app:chat", 2), ("some_pkg.app:Chat", 3), ("some_pkg.app:Box.chat", 3)):
        stop = load_handlers(spec).worker_stop
        assert stop is not None and stop() == made


def test_a_class_is_instantiated_by_each_load_and_an_object_is_not() -> None:
    class Chat:
        def handle_worker_stop(self) -> int:
            return id(self)

    first, second = load_handlers(Chat).worker_stop, load_handlers(Chat).worker_stop
    assert first is not None and second is not None and first() != second()
    chat = Chat()
    shared = load_handlers(chat).worker_stop
    assert shared is not None and shared() == id(chat)


def test_handlers_of_worker_that_are_not_overridden_are_absent() -> None:
    class Echo(wsbroker.Worker):
        def handle_socket_message(self, data: str | bytes, socket_id: int, token: bytes | None, /) -> None: ...

    class Louder(Echo):
        async def handle_worker_stop(self) -> None: ...

    assert load_handlers(Echo).names == ("handle_socket_message",)
    assert load_handlers(Louder()).names == ("handle_worker_stop", "handle_socket_message")
    assert "no handlers" in problem(wsbroker.Worker)


def test_worker_has_exactly_the_documented_handlers_and_arguments() -> None:
    import inspect

    own = [name for name in vars(wsbroker.Worker) if not name.startswith("_")]
    assert own == list(HANDLER_ARGUMENTS)
    for name, documented in HANDLER_ARGUMENTS.items():
        parameters = list(inspect.signature(getattr(wsbroker.Worker, name)).parameters.values())[1:]
        assert tuple(parameter.name for parameter in parameters) == documented
        assert all(parameter.kind == parameter.POSITIONAL_ONLY for parameter in parameters)


# Signatures. ----------------------------------------------------------------------------------------------------------


class Kinds:
    """Ways to write a handler that takes (data, socket_id)."""

    def method(self, data: object, socket_id: int) -> object:
        return data, socket_id

    @staticmethod
    def static(data: object, socket_id: int) -> object:
        return data, socket_id

    @classmethod
    def of_class(cls, data: object, socket_id: int) -> object:
        return data, socket_id

    def __call__(self, data: object, socket_id: int) -> object:
        return data, socket_id


def passing(function: Callable[..., object]) -> Callable[..., object]:
    """A decorator as people write them."""

    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return wrapper


def with_prefix(prefix: str, data: object, socket_id: int) -> object:
    """To be made partial."""
    return data, socket_id


@pytest.mark.parametrize(
    "handler",
    [
        Kinds().method,
        Kinds.static,
        Kinds.of_class,
        Kinds(),
        functools.partial(with_prefix, "p"),
        passing(Kinds.static),
        passing(Kinds().method),
        lambda data, socket_id: (data, socket_id),
        lambda message, sender: (message, sender),
        lambda data, socket_id, /: (data, socket_id),
    ],
)
def test_a_handler_is_called_with_the_first_arguments_that_it_takes(handler: Callable[..., object]) -> None:
    found = load_handlers(one(handler))
    assert found.message_arity == 2
    assert found.message is not None and found.message("x", 1, b"token") == ("x", 1)


def test_what_a_handler_may_take_beyond_that() -> None:
    everything = load_handlers(one(lambda *args: args)).message
    assert everything is not None and everything("x", 1, b"t") == ("x", 1, b"t")
    optional = load_handlers(
        one(lambda data, socket_id, token, database=7, *, cache=8, **more: (data, database, cache))
    ).message
    assert optional is not None and optional("x", 1, b"t") == ("x", 7, 8)
    renamed = load_handlers(one(lambda data, sid=None, secret=None: (data, sid, secret))).message
    assert renamed is not None and renamed("x", 1, b"t") == ("x", 1, b"t")
    nothing = load_handlers(one(lambda: "called")).message
    assert nothing is not None and nothing("x", 1, b"t") == "called"
    close = load_handlers(one(lambda socket_id: socket_id, "handle_socket_close")).close
    assert close is not None and close(5, b"t", 1000, "bye") == 5
    builtin = load_handlers(one(dict.fromkeys, "handle_http_request")).http
    assert builtin is not None


@pytest.mark.parametrize(
    ("name", "handler", "text"),
    [
        (
            "handle_socket_message",
            lambda socket_id, data: None,
            "handle_socket_message(socket_id, data) in types:SimpleNamespace (a live object): "
            "'socket_id' stands in place 1 and is given in place 2",
        ),
        ("handle_socket_message", lambda data, token: None, "'token' stands in place 2 and is given in place 3"),
        ("handle_socket_close", lambda socket_id, code: None, "'code' stands in place 2 and is given in place 3"),
        ("handle_http_request", lambda request, db: None, "it needs 2 arguments and is given 1"),
        ("handle_worker_stop", lambda arg: None, "it needs 1 arguments and is given 0"),
        ("handle_socket_message", lambda data, *, db: None, "'db' must be given by name, and nobody does"),
        ("handle_socket_message", lambda data, *, token=None: None, "'token' stands behind a '*'"),
    ],
)
def test_an_impossible_signature_is_an_error_that_says_what_is_expected(
    name: str, handler: Callable[..., object], text: str
) -> None:
    said = problem(one(handler, name))
    assert text in said
    assert (
        f"it is called as {name}({', '.join(HANDLER_ARGUMENTS[name])}), and may take fewer of these: the first ones"
        in said
    )


async def async_handler(data: object) -> None: ...


async def async_generator(data: object) -> AsyncIterator[int]:
    yield 1


def generator(data: object) -> Iterator[int]:
    yield 1


class AsyncKinds:
    """Async handlers in disguise."""

    async def method(self, data: object) -> None: ...

    async def __call__(self, data: object) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        async_handler,
        AsyncKinds().method,
        AsyncKinds(),
        functools.partial(async_handler, "x"),
        passing(async_handler),
    ],
)
def test_async_handlers_are_recognised(handler: Callable[..., object]) -> None:
    assert load_handlers(one(handler)).is_async
    assert not load_handlers(one(Kinds.static)).is_async


@pytest.mark.parametrize("handler", [async_generator, generator, passing(generator)])
def test_generators_are_refused(handler: Callable[..., object]) -> None:
    assert "has a 'yield' in it, so calling it runs nothing: use def or async def" in problem(one(handler))


def test_a_handler_that_is_no_function_is_refused() -> None:
    assert "handle_socket_message in types:SimpleNamespace (a live object) is no function but an int" in problem(
        types.SimpleNamespace(handle_socket_message=3)
    )


# What can be wrong with a spec. ---------------------------------------------------------------------------------------


def test_without_handlers_the_error_says_what_was_found_and_what_is_expected(package: Write) -> None:
    package("some_app.py", "import json\nfrom os.path import join\ndef on_message(data): ...\ndef main(): ...\n_x = 1")
    assert problem("some_app") == (
        "no handlers in some_app: found main, on_message; expected at least one of handle_worker_start, "
        "handle_worker_stop, handle_socket_open, handle_socket_message, handle_socket_close, handle_http_request"
    )
    assert "no handlers in builtins:int: it is an int without functions" in problem(int)


def test_a_handler_named_in_place_of_its_module_or_class_is_an_error_that_names_that(package: Write) -> None:
    package("one_app.py", "def handle_http_request(): ...\nclass App:\n    def handle_http_request(self): ...\n")
    text = "no handlers in one_app:{}: it is one function; name the module or object that has it: {!r}; expected"
    assert text.format("handle_http_request", "one_app") in problem("one_app:handle_http_request")
    assert text.format("App.handle_http_request", "one_app:App") in problem("one_app:App.handle_http_request")


@pytest.mark.parametrize(
    "source",
    [
        "class App:\n    def handle_http_request(*request): ...\n",
        "class App:\n    @classmethod\n    def handle_http_request(cls, request): ...\n",
        "import types\nclass Other: ...\nApp = Other()\n"
        "App.handle_http_request = types.MethodType(lambda request, other: None, App)\n",
    ],
)
def test_a_method_whose_object_has_another_name_is_a_handler(source: str, package: Write) -> None:
    package("named_app.py", source)
    assert load_handlers("named_app:App").http is not None


@pytest.mark.parametrize("given", ["", "data", "data, socket_id"])
def test_a_method_without_self_is_an_error_that_says_so(given: str, package: Write) -> None:
    package("self_app.py", f"class App:\n    def handle_socket_message({given}): ...\n")
    assert problem("self_app:App") == (
        f"handle_socket_message({given}) in self_app:App: it is a method and lacks 'self'; "
        "write handle_socket_message(self, data, socket_id, token), or fewer of the arguments after 'self'"
    )


def test_a_relative_import_in_a_file_without_its_package_says_how_to_name_it(
    package: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("dot/dotted_app.py", "from . import other\n")
    monkeypatch.syspath_prepend(str(tmp_path / "dot"))
    assert problem("dotted_app").endswith(
        "; relative imports need the package: write dot.dotted_app, in the folder above"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("handle_socket_mesage", "handle_socket_message"),
        ("handle_message", "handle_socket_message"),
        ("handle_open", "handle_socket_open"),
        ("handle_http", "handle_http_request"),
        ("handle_request", "handle_http_request"),
        ("handle_start", "handle_worker_start"),
    ],
)
def test_a_misspelled_handler_is_an_error_alone_and_a_warning_beside_others(
    name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = types.SimpleNamespace(**{name: lambda: None})
    assert f"found {name} (did you mean {meant}?)" in problem(wrong)
    other = "handle_socket_close"
    found = load_handlers(types.SimpleNamespace(**{name: lambda: None, other: lambda: None}))
    assert found.names == (other,)
    [record] = caplog.records
    assert record.levelname == "WARNING" and f"name={name}" in record.getMessage() and meant in record.getMessage()


def test_helpers_of_similar_names_are_not_taken_for_handlers_that_are_there(caplog: pytest.LogCaptureFixture) -> None:
    load_handlers(
        types.SimpleNamespace(handle_socket_message=lambda: None, handle_message=lambda: None, handle=lambda: None)
    )
    assert caplog.records == []


def test_a_module_that_does_not_exist(package: Write) -> None:
    package("some_pkg/__init__.py", "")
    assert problem("no_such_app").startswith(
        "cannot import 'no_such_app': there is no module named 'no_such_app'; looked in "
    )
    assert problem("some_pkg.missing") == (
        "cannot import 'some_pkg.missing': there is no module named 'some_pkg.missing'; looked in package 'some_pkg'"
    )
    assert "there is no module named 'no_pkg'" in problem("no_pkg.app:Chat")


def test_an_import_error_keeps_its_cause_and_says_through_which_modules_it_came(package: Write) -> None:
    package("some_app/__init__.py", "from some_app import db")
    package("some_app/db.py", "import redis_of_nowhere")
    with pytest.raises(wsbroker.ConfigError) as caught:
        load_handlers("some_app")
    assert str(caught.value) == (
        "cannot import 'some_app': ModuleNotFoundError: No module named 'redis_of_nowhere' "
        "(imported by some_app → some_app.db, at db.py line 1)"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", "SyntaxError: invalid syntax (some_app.py, line 1)"),
        ("import sys\nsys.exit('no licence')", "SystemExit: no licence (imported by some_app, at some_app.py line 2)"),
        ("1/0", "ZeroDivisionError: division by zero (imported by some_app, at some_app.py line 1)"),
    ],
)
def test_a_module_that_fails_to_import(package: Write, text: str, said: str) -> None:
    package("some_app.py", text)
    assert problem("some_app") == f"cannot import 'some_app': {said}"


def test_a_missing_attribute_lists_near_names(package: Write) -> None:
    package("some_app.py", "class ChatWorker: ...\nclass Other: ...")
    assert problem("some_app:ChatWorke") == (
        "some_app has no 'ChatWorke' (worker 'some_app:ChatWorke'): did you mean 'ChatWorker'?"
    )
    assert problem("some_app:zzz") == "some_app has no 'zzz' (worker 'some_app:zzz'): it has ChatWorker, Other"
    assert problem("some_app:Other.x") == (
        "some_app:Other has no 'x' (worker 'some_app:Other.x'): it has nothing public"
    )


@pytest.mark.parametrize("spec", ["", ":x", "app:", "app.py", "dir/app"])
def test_a_spec_that_is_no_name_is_refused(spec: str) -> None:
    assert problem(spec) == f"not a worker: {spec!r}; give 'package.module' or 'package.module:object'"


def test_a_class_that_cannot_be_instantiated() -> None:
    class Needs:
        def __init__(self, database: object) -> None: ...

        def handle_worker_stop(self) -> None: ...

    said = problem(Needs)
    assert "Needs cannot be instantiated: TypeError: " in said
    assert "missing 1 required positional argument: 'database'" in said
    assert "a worker class is called without arguments, in each worker" in said
