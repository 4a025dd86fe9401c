"""Every way in which a start fails, as a person sees it: one line, the exit code, no traceback.

The same applications fail in the same words when a program starts them, with every kind of worker.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import wsbroker
from kits.contract_kit import HERE, KINDS, Servers
from kits.forked_programs import Forks, program
from kits.raw_peer import PATIENCE_S
from wsbroker.build import core_kind, package_version

HANDLERS: Final = (
    "handle_worker_start, handle_worker_stop, handle_socket_open, handle_socket_message, handle_socket_close, "
    "handle_http_request"
)
TAKES: Final = (
    "it is called as handle_socket_message(data, socket_id, token), and may take fewer of these: the first ones"
)
WRITE: Final = (
    "HOST:PORT (such as 127.0.0.1:3000), :PORT for all interfaces, [IPV6]:PORT, unix:/PATH, or fd://3 for a socket "
    "that is open"
)

FILES: Final = {
    "good.py": "def handle_socket_message(data): ...\nclass App:\n    def handle_socket_message(self, data): ...\n",
    "bare.py": "def hello(): ...\ndef handler(): ...\n",
    "nothing.py": "import json\nfrom os.path import join\n",
    "misspelled.py": "def handle_socket_mesage(data): ...\n",
    "short.py": "def handle_message(data): ...\n",
    "swapped.py": "def handle_socket_message(socket_id, data): ...\n",
    "greedy.py": "def handle_socket_message(data, socket_id, token, more): ...\n",
    "named.py": "def handle_socket_open(request, *, socket_id): ...\n",
    "by_name.py": "def handle_socket_open(request, *, more): ...\n",
    "yielding.py": "async def handle_socket_message(data):\n    yield data\n",
    "number.py": "handle_socket_message = 5\n",
    "outer.py": "import inner\ndef handle_socket_message(data): ...\n",
    "inner.py": "import json\nraise ValueError('the database has no\\n  name')\n",
    "missing.py": "import not_there_at_all\n",
    "syntax.py": "def handle_socket_message(data):\n    return ((\n",
    "exits.py": "import sys\nsys.exit('enough')\n",
    "needy.py": "class App:\n    def __init__(self, dsn): ...\n    def handle_socket_message(self, data): ...\n",
    "down.py": "def handle_worker_start(arg): raise ConnectionError('no database')\ndef handle_http_request(): ...\n",
    "down_later.py": "async def handle_worker_start(): raise ConnectionError('no database')\n",
    "folder/in_it.py": "",
    "unknown.toml": "max_mesage_size = 5\n",
    "value.toml": "max_message_size = 'much'\n",
    "broken.toml": "max_message_size = \n",
    "bounds.toml": "[wsbroker]\nworkers = 0\n",
    "outside.toml": "workers = 1\n[wsbroker]\n",
    "type.toml": "bind = 3000\n",
    "latin.toml": "# \udcff\n",
}


class Failure(NamedTuple):
    """An application that cannot be served, and the error text; ``…`` stands for parts that depend on the machine."""

    app: str
    text: str
    code: int = 2


FAILURES: Final = [
    Failure("absent", "cannot import 'absent': there is no module named 'absent'; looked in '{folder}'…"),
    Failure("absent.sub", "cannot import 'absent.sub': there is no module named 'absent'; looked in '{folder}'…"),
    Failure("json.sub", "cannot import 'json.sub': there is no module named 'json.sub'; looked in package 'json'"),
    Failure("good:Nope", "good has no 'Nope' (worker 'good:Nope'): it has App, handle_socket_message"),
    Failure("good:Ap", "good has no 'Ap' (worker 'good:Ap'): did you mean 'App'?"),
    Failure("good:App.x", "good:App has no 'x' (worker 'good:App.x'): it has handle_socket_message"),
    Failure("good:", "not a worker: 'good:'; give 'package.module' or 'package.module:object'"),
    Failure(".good", "not a worker: '.good'; give 'package.module' or 'package.module:object'"),
    Failure("bare", f"no handlers in bare: found handler, hello; expected at least one of {HANDLERS}"),
    Failure(
        "nothing", f"no handlers in nothing: it is a module without functions; expected at least one of {HANDLERS}"
    ),
    Failure(
        "misspelled",
        "no handlers in misspelled: found handle_socket_mesage (did you mean handle_socket_message?); "
        f"expected at least one of {HANDLERS}",
    ),
    Failure(
        "short",
        "no handlers in short: found handle_message (did you mean handle_socket_message?); "
        f"expected at least one of {HANDLERS}",
    ),
    Failure(
        "swapped",
        "handle_socket_message(socket_id, data) in swapped: 'socket_id' stands in place 1 and is given in place 2; "
        + TAKES,
    ),
    Failure(
        "greedy",
        f"handle_socket_message(data, socket_id, token, more) in greedy: it needs 4 arguments and is given 3; {TAKES}",
    ),
    Failure(
        "named",
        "handle_socket_open(request, socket_id) in named: 'socket_id' stands behind a '*', and arguments are given by "
        "position; it is called as handle_socket_open(request, socket_id), and may take fewer of these: the first ones",
    ),
    Failure(
        "by_name",
        "handle_socket_open(request, more) in by_name: 'more' must be given by name, and nobody does; "
        "it is called as handle_socket_open(request, socket_id), and may take fewer of these: the first ones",
    ),
    Failure(
        "yielding",
        "handle_socket_message in yielding has a 'yield' in it, so calling it runs nothing: use def or async def",
    ),
    Failure("number", "handle_socket_message in number is no function but an int: make it a def or async def"),
    Failure(
        "outer",
        "cannot import 'outer': ValueError: the database has no name (imported by outer → inner, at inner.py line 2)",
    ),
    Failure(
        "missing",
        "cannot import 'missing': ModuleNotFoundError: No module named 'not_there_at_all' "
        "(imported by missing, at missing.py line 1)",
    ),
    Failure("syntax", "cannot import 'syntax': SyntaxError: '(' was never closed (syntax.py, line 2)"),
    Failure("exits", "cannot import 'exits': SystemExit: enough (imported by exits, at exits.py line 2)"),
    Failure(
        "needy:App",
        "needy:App cannot be instantiated: TypeError: App.__init__() missing 1 required positional argument: 'dsn' "
        "(a worker class is called without arguments, in each worker; give an object to share one)",
    ),
    Failure("down", "handle_worker_start of down failed: ConnectionError: no database", 4),
    Failure("down_later", "handle_worker_start of down_later failed: ConnectionError: no database", 4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of all cases."""
    folder = tmp_path_factory.mktemp("apps")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    return folder


# In a program. --------------------------------------------------------------------------------------------------------


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the applications importable; removes their modules after the test."""
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in {Path(file).stem for file in FILES}:
            del sys.modules[name]


ELSEWHERE_TOO: Final = {"absent", "good:Ap", "swapped", "outer", "syntax", "exits", "needy:App", "down", "down_later"}
"""One of each way to fail: it is the same code that finds the handlers, and here that its findings come back."""


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.app)
def test_what_cannot_be_served_is_an_error_of_start(
    failure: Failure, servers: Servers, folder: Path, importable: None
) -> None:
    for kind in HERE if failure.app not in ELSEWHERE_TOO else KINDS:
        expected = wsbroker.ConfigError if failure.code == 2 else wsbroker.WorkerError
        with pytest.raises(expected) as caught:
            servers.of(failure.app, kind)
        assert re.fullmatch(pattern_of(failure.text, folder), str(caught.value)), (kind, str(caught.value))


def pattern_of(text: str, folder: Path) -> str:
    """Returns the pattern for an expected text, in which ``…`` matches anything."""
    return re.escape(text.replace("{folder}", str(folder))).replace("…", ".*")


THREAD: Final = "--worker-kind=thread"
"""Processes would take much longer to start, and say the same: see above."""


# On the command line. -------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A command line that fails, with its exit code and error text."""

    name: str
    arguments: list[str]
    code: int
    text: str
    environment: dict[str, str] = {}
    warning: str = ""


def bind(address: str, text: str, code: int = 2) -> Case:
    """Returns the case of an address that cannot be bound."""
    prefix = "--bind: " if code == 2 else ""
    shown = repr(address) if code == 2 else address if address.startswith("unix:") else f"http://{address}"
    return Case(f"bind {address}", ["good", THREAD, "--bind", address], code, f"{prefix}cannot bind to {shown}: {text}")


def flag(flag: str, text: str) -> Case:
    """Returns the case of a wrong flag."""
    return Case(flag, ["good", flag], 2, text)


def variable(name: str, value: str, text: str) -> Case:
    """Returns the case of a wrong environment variable."""
    return Case(f"{name}={value}", ["good"], 2, text, {name: value})


def config(file: str, text: str) -> Case:
    """Returns the case of a wrong configuration file."""
    return Case(file, ["good", "--config", file], 2, text)


CASES: Final = [
    *[
        Case(failure.app, [failure.app, THREAD, "--bind=127.0.0.1:0"], failure.code, failure.text)
        for failure in FAILURES
    ],
    Case("file without handlers", ["./bare.py", THREAD], 2, FAILURES[8].text),
    Case("object of a file", ["./good.py:Nope", THREAD], 2, FAILURES[3].text),
    Case("no such file", ["./gone.py"], 2, "there is no file './gone.py' in {folder}"),
    Case("no extension", ["./good"], 2, "there is no file './good' in {folder}; did you mean './good.py'?"),
    Case("folder", ["./folder"], 2, "'./folder' is a folder: name a file in it, or the package as a module"),
    Case("no app", [""], 2, "APP is empty: write module, module:object or a file such as ./chat.py"),
    Case("two apps", ["good", "bare"], 2, "one APP is served, not several: got 'good' and 'bare'; flags start with --"),
    Case(
        "secret",
        ["good", "--secret", "hidden-from-the-log"],
        2,
        "--secret is for the built-in application only: hand 'good' its secret with --worker-arg, "
        "which its handle_worker_start(arg) is called with",
    ),
    Case(
        "argument of nobody",
        ["--worker-arg", "hidden-from-the-log"],
        2,
        "--worker-arg is for an APP of your own: the built-in application takes --secret or WSBROKER_SECRET",
    ),
    Case(
        "built-in in a thread",
        ["--worker-kind=thread"],
        2,
        "--worker-kind is thread, but the built-in application runs inline only, where its 'delivered' is exact: "
        "leave it out, or name an APP of your own for that",
    ),
    Case(
        "many inline",
        ["good", "--worker-kind=inline", "--workers=2"],
        2,
        "--workers is 2, but --worker-kind is inline, and handlers in the event loop have one worker: "
        "leave the number out, or choose another kind",
    ),
    Case(
        "port in use",
        ["good", THREAD, "--bind=127.0.0.1:0", "--bind=127.0.0.1:{taken}"],
        3,
        "cannot bind to http://127.0.0.1:{taken}: port {taken} is in use; "
        "stop what listens there, or choose another port (0: any free one)",
    ),
    Case(
        "port in use, inline",
        ["good", "--worker-kind=inline", "--bind=127.0.0.1:{taken}"],
        3,
        "cannot bind to http://127.0.0.1:{taken}: port {taken} is in use; "
        "stop what listens there, or choose another port (0: any free one)",
        {"WSBROKER_MAX_MESAGE_SIZE": "5"},
        "the environment variable WSBROKER_MAX_MESAGE_SIZE is unknown and ignored; "
        "did you mean 'WSBROKER_MAX_MESSAGE_SIZE'?",
    ),
    Case(
        "port in use by the built-in application",
        ["--bind=127.0.0.1:{taken}"],
        3,
        "cannot bind to http://127.0.0.1:{taken}: port {taken} is in use; "
        "stop what listens there, or choose another port (0: any free one)",
    ),
    bind("3000", f"that is a port only; did you mean '127.0.0.1:3000'? Write {WRITE}"),
    bind("127.0.0.1", f"the port is missing; write {WRITE}"),
    bind("127.0.0.1:x", f"'x' is not a port number; write {WRITE}"),
    bind("127.0.0.1:65536", f"port 65536 is over 65535; write {WRITE}"),
    bind("http://localhost:80/", f"an address has no scheme; did you mean 'localhost:80'? Write {WRITE}"),
    bind("300.0.0.1:80", f"'300.0.0.1' is not an IPv4 address; write {WRITE}"),
    bind("::1:80", f"an IPv6 address stands in brackets; write {WRITE}"),
    bind("[::1x]:80", f"'::1x' is not an IPv6 address; write {WRITE}"),
    bind("a b:80", f"'a b' is not a host name; write {WRITE}"),
    bind("unix:", f"the path is missing; write {WRITE}"),
    bind("unix:/" + "x" * 120, f"its path is 121 bytes long and a Unix socket's has at most 107; write {WRITE}"),
    bind("unix:/no/such/folder/s", "there is no folder /no/such/folder; create it first", 3),
    bind("unix:good.py", "there is something else than a socket; remove it, or choose another path", 3),
    bind("unix:taken.sock", "another server listens there; stop it, or choose another path", 3),
    Case(
        "unknown host",
        ["good", THREAD, "--bind=host.invalid:80"],
        3,
        "cannot bind to http://host.invalid:80: the host name 'host.invalid' is unknown; "
        "check its spelling, or write an address of this machine",
        {"RES_OPTIONS": "attempts:1 timeout:1"},
    ),
    bind("192.0.2.1:8080", "this machine does not have that address; write one it has, or :8080 for all interfaces", 3),
    Case(
        "bound twice",
        ["good", "--bind=127.0.0.1:81", "--bind=127.0.0.1:81"],
        2,
        "--bind: cannot bind to '127.0.0.1:81': it is named twice; once is enough",
    ),
    flag("--max-mesage-size=5", "there is no flag --max-mesage-size; did you mean '--max-message-size'?"),
    flag("--zzz", "there is no flag --zzz"),
    flag("-z", "there is no flag -z"),
    flag("--bind", "--bind needs a value"),
    flag("--workers=0", "--workers is 0, but must be from 1 to 1024"),
    flag("--workers=two", "--workers is 'two', but must be a whole number, or auto"),
    flag(
        "--worker-kind=treads",
        "--worker-kind is 'treads', but must be auto, inline, thread, interpreter or process; did you mean 'thread'?",
    ),
    flag("--max-message-size=64K", "--max-message-size is '64K', but must be a size such as 65536, 64KiB or 1MiB"),
    flag("--max-head-size=1", "--max-head-size is 1B, but must be from 1KiB to 1MiB"),
    flag("--ping-interval=soon", "--ping-interval is 'soon', but must be a duration such as 10, 10s, 500ms or 1m"),
    flag("--ping-interval=0", "--ping-interval is 0s, but must be from 0.01s to 86400s"),
    flag("--log-level=loud", "--log-level is 'loud', but must be debug, info, warning, error or critical"),
    flag("--compression", "--compression is on, but this version cannot compress messages yet: leave it off"),
    flag(
        "--allowed-origins=example.com",
        "--allowed-origins holds 'example.com', but an origin is scheme and host as a browser sends them "
        "(https://example.com?), such as https://example.com, http://localhost:8080, capacitor://localhost, file:// or "
        "null, or *",
    ),
    flag(
        "--subprotocols=a b",
        "--subprotocols holds 'a b', but a subprotocol is letters, digits and !#$%&'*+-.^_`|~ without spaces",
    ),
    variable("WSBROKER_WORKERS", "many", "WSBROKER_WORKERS is 'many', but must be a whole number, or auto"),
    variable("WSBROKER_LOG", "loud", "WSBROKER_LOG is 'loud', but must be debug, info, warning, error or critical"),
    variable("WSBROKER_CONFIG", "gone.toml", "WSBROKER_CONFIG: cannot read gone.toml: No such file or directory"),
    config("gone.toml", "--config: cannot read gone.toml: No such file or directory"),
    config("unknown.toml", "unknown.toml has an unknown key 'max_mesage_size'; did you mean 'max_message_size'?"),
    config(
        "value.toml",
        "max_message_size in value.toml is 'much', but must be a size such as 65536, 64KiB or 1MiB",
    ),
    config("broken.toml", "--config: broken.toml is not valid TOML: Invalid value (at line 1, column 20)"),
    config("bounds.toml", "workers in bounds.toml is 0, but must be from 1 to 1024"),
    config("outside.toml", "outside.toml has 'workers' outside its table [wsbroker]: move it inside"),
    config("type.toml", "bind in type.toml is 3000, but must be a text in quotes or a list of them"),
    config("latin.toml", "--config: latin.toml is not UTF-8, and TOML must be"),
]


class Outcome(NamedTuple):
    """The exit code of a command and its output."""

    code: int
    text: str


def outcome(folder: Path, *arguments: str, **environment: str) -> Outcome:
    """Runs a command to its end and returns the outcome."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wsbroker", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    return Outcome(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def taken(folder: Path) -> Iterator[str]:
    """A port and a Unix socket on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX) as unix:
        before = Path.cwd()
        os.chdir(folder)  # the path of a temporary folder may be too long for it
        unix.bind("taken.sock")
        os.chdir(before)
        unix.listen()
        yield str(other.getsockname()[1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_command_that_fails_says_why_in_one_line(case: Case, forks: Forks, folder: Path, taken: str) -> None:
    arguments = [argument.replace("{taken}", taken) for argument in case.arguments]
    with program(forks, *arguments, environment=case.environment, folder=folder) as command:
        code = command.ended()
    check(case, Outcome(code, command.log), folder, taken)


@pytest.mark.parametrize("name", ["outer", "port in use"])
def test_so_it_does_when_nothing_was_imported_before(name: str, folder: Path, taken: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    arguments = [argument.replace("{taken}", taken) for argument in case.arguments]
    check(case, outcome(folder, *arguments, PYTHONWARNINGS="error"), folder, taken)


def check(case: Case, found: Outcome, folder: Path, taken: str) -> None:
    """Asserts the exit code and one error line, with no other output than the log."""
    *before, last = found.text.splitlines()
    text = case.text.replace("{taken}", taken)
    assert re.fullmatch("wsbroker: error: " + pattern_of(text, folder), last), found.text
    assert found.code == case.code
    # What stands before it is the log: that the workers were started and stopped again, and warnings.
    assert [line for line in before if " INFO " not in line and " WARNING " not in line] == []
    warnings = [line.partition(": ")[2] for line in before if " WARNING " in line]
    assert warnings == ([case.warning] if case.warning else [])
    assert "hidden-from-the-log" not in found.text


def test_the_traceback_is_there_for_who_asks_for_it(forks: Forks, folder: Path) -> None:
    with program(forks, "outer", THREAD, "--log-level=debug", "--bind=127.0.0.1:0", folder=folder) as command:
        assert command.ended() == 2
    assert "inner.py" in command.log and "raise ValueError" in command.log
    assert command.log.splitlines()[-1].startswith("wsbroker: error: cannot import 'outer': ValueError: ")


def test_an_error_goes_to_stderr_and_nothing_to_stdout(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "wsbroker", "--zzz"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "wsbroker: error: there is no flag --zzz\n")


def test_version_says_which_core_runs(folder: Path) -> None:
    code, text = outcome(folder, "--version")
    assert code == 0
    lines = text.splitlines()
    assert lines[:2] == [f"wsbroker {package_version()}", f"core: {core_kind()}"]
    assert re.fullmatch(r"python: 3\.\d+\.\S+ \(CPython\)", lines[2]) and len(lines) == 3


def test_help_names_every_flag_and_exit_code(forks: Forks, folder: Path) -> None:
    with program(forks, "--help", environment={"COLUMNS": "100"}, folder=folder) as command:
        assert command.ended() == 0
    for setting in wsbroker.Settings.__annotations__:
        assert re.search(rf"--{setting.replace('_', '-')}\b", command.log), setting
    for exit_code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130, 143"):
        assert re.search(rf"^  {exit_code}", command.log, re.MULTILINE), exit_code
