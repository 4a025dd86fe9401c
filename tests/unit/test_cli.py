"""The command line, with a recording `run` in place of the server: what it is asked for, and every error verbatim."""

import errno
import json
import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsbroker import cli
from wsbroker.errors import CommandError, ConfigError, WorkerError
from wsbroker.settings import open_sockets, sources
from wsbroker.settings.addresses import TcpAddress, describe_bind_error
from wsbroker.settings.config import SETTINGS, Config


class Run:
    """A substitute for `wsbroker.server.api.run`: records its arguments and raises the error that the test sets."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], Config, str]] = []
        self.error: BaseException | None = None
        self.reload = False

    def __call__(self, bind: list[str], *, config: Config, worker: str, reload: bool) -> None:
        self.calls.append((bind, config, worker))
        self.reload = reload
        if self.error is not None:
            raise self.error

    @property
    def bind(self) -> list[str]:
        return self.calls[-1][0]

    @property
    def config(self) -> Config:
        return self.calls[-1][1]

    @property
    def worker(self) -> str:
        return self.calls[-1][2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Removes WSBROKER variables, makes an empty working directory; restores `sys.path` and logging afterwards."""
    for variable in list(os.environ):
        if variable.startswith("WSBROKER_"):
            monkeypatch.delenv(variable)
    recorder = Run()
    app = types.ModuleType("wsbroker.server.api")
    app.__dict__["run"] = recorder
    monkeypatch.setitem(sys.modules, "wsbroker.server.api", app)
    monkeypatch.setattr("wsbroker.settings.descriptors.raise_fd_limit", lambda: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    yield recorder
    logging.getLogger().setLevel(level)


@pytest.fixture
def error_of(run: Run, capsys: pytest.CaptureFixture[str]) -> "ErrorOf":
    return ErrorOf(capsys)


class ErrorOf:
    """Runs the command line and returns its exit code and the text of its one line on stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *argv: str) -> tuple[int, str]:
        code = cli.main(argv)
        out, err = self.capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1 and err.startswith("wsbroker: error: "), err
        return code, err.removeprefix("wsbroker: error: ").removesuffix("\n")


# --- what is served ---


def test_without_arguments_the_built_in_application_is_served_inline_on_loopback(run: Run) -> None:
    assert cli.main([]) == 0
    assert run.bind == ["127.0.0.1:3000"]
    assert run.worker == "wsbroker.apps.pubsub"
    assert run.config == Config(worker_kind="inline")


def test_an_application_of_the_users_is_served_with_the_settings_given(run: Run) -> None:
    argv = ["shop.chat:app", "--bind", ":3000", "--bind=unix:/tmp/x", "--workers", "2", "--worker-kind", "thread"]
    assert cli.main([*argv, "--worker-arg", "x=1", "--max-message-size", "1MiB", "--ping-interval=500ms"]) == 0
    assert run.bind == [":3000", "unix:/tmp/x"]
    assert run.worker == "shop.chat:app"
    assert run.config == Config(
        workers=2, worker_kind="thread", worker_arg="x=1", max_message_size=1 << 20, ping_interval=0.5
    )


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_setting_has_a_flag(run: Run, name: str) -> None:
    setting = SETTINGS[name]
    flag = sources.flag_name_of(name)
    argv = {
        "size": [flag, "64KiB"],
        "seconds": [flag, "3s"],
        "count": [flag, "7"],
        "mode": [flag, "640"],
        "choice": [flag, setting.choices[-1] if setting.choices else ""],
        "switch": [flag.replace("--", "--no-")],
        "text": [flag, "0"],  # also the number of a group
        "names": [flag, "https://a" if name == "allowed_origins" else "a"],
    }[setting.kind]
    value = {
        "size": 65536,
        "seconds": 3.0,
        "count": 7,
        "mode": 0o640,
        "choice": argv[-1],
        "switch": False,
        "text": "0",
        "names": (argv[-1],),
    }[setting.kind]
    assert cli.main(["app", *argv]) == 0
    assert getattr(run.config, name) == value


def test_a_flag_beats_the_environment_that_beats_the_file_that_beats_the_default(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("ws.toml").write_text('app = "file"\nbind = ":1"\nworkers = 3\nping_interval = 3\npong_timeout = 3\n')
    monkeypatch.setenv("WSBROKER_CONFIG", "ws.toml")
    monkeypatch.setenv("WSBROKER_WORKERS", "2")
    monkeypatch.setenv("WSBROKER_PING_INTERVAL", "2")
    monkeypatch.setenv("WSBROKER_BIND", ":2, [::1]:2")
    assert cli.main(["--workers", "1"]) == 0
    assert (run.worker, run.bind) == ("file", [":2", "[::1]:2"])
    assert (run.config.workers, run.config.ping_interval, run.config.pong_timeout) == (1, 2, 3)
    assert run.config.close_timeout == 5
    monkeypatch.setenv("WSBROKER_APP", "environment")
    assert cli.main(["--bind", ":9"]) == 0
    assert (run.worker, run.bind) == ("environment", [":9"])
    assert cli.main(["flag"]) == 0
    assert run.worker == "flag"


def test_sockets_that_were_handed_in_and_are_not_used_are_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_sockets, "systemd_sockets", open_sockets.SystemdSockets())
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert cli.main(["app"]) == 0
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setattr(open_sockets, "_make_uninheritable", lambda number: None)
    assert cli.main(["app", "--bind", ":0"]) == 0
    assert [bind for bind, _, _ in run.calls] == [["127.0.0.1:3000"], [":0"]]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"sockets that were handed in are not used: LISTEN_FDS is for process 1, and this is {os.getpid()}; "
        "a script in between has to start wsbroker with 'exec'",
        "sockets that were handed in are not used: --bind names others; leave it out, or write fd://3",
    ]


def test_a_flag_may_take_back_what_the_environment_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSBROKER_WORKERS", "nonsense")
    assert cli.main(["app", "--workers", "auto"]) == 0
    assert run.config.workers is None


# --- finding the application ---


def test_the_working_directory_comes_first_for_a_module(run: Run, tmp_path: Path) -> None:
    sys.path[0] = "/somewhere/bin"
    assert cli.main(["chat"]) == 0
    assert sys.path[:2] == [str(tmp_path), "/somewhere/bin"]


def test_the_folder_of_a_file_comes_first_and_the_working_directory_is_not_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "chat_of_mine.py").write_text("")
    sys.path.insert(0, str(tmp_path))  # as python -m does
    assert cli.main(["inner/chat_of_mine.py"]) == 0
    assert run.worker == "chat_of_mine"
    assert sys.path[0] == str(tmp_path / "inner")
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("app", ["chat_of_mine.py", "./chat_of_mine.py", "{folder}/chat_of_mine.py"])
def test_a_file_may_be_named_in_any_way_and_with_an_object(run: Run, tmp_path: Path, app: str) -> None:
    (tmp_path / "chat_of_mine.py").write_text("")
    assert cli.main([app.format(folder=tmp_path) + ":rooms.main"]) == 0
    assert run.worker == "chat_of_mine:rooms.main"


def test_the_name_of_the_built_in_application_is_the_same_as_none(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert cli.main(["wsbroker.apps.pubsub", "--secret", "s3"]) == 0
    assert (run.worker, run.config.worker_kind) == ("wsbroker.apps.pubsub", "inline")
    assert run.config.worker_arg is not None


@pytest.mark.parametrize(
    ("app", "error"),
    [
        ("./no.py", "there is no file './no.py' in {cwd}"),
        ("no.py:app", "there is no file 'no.py' in {cwd}"),
        ("/no/where.py", "there is no file '/no/where.py'"),
        ("./found", "there is no file './found' in {cwd}; did you mean './found.py'?"),
        ("./found.txt", "'./found.txt' is not a Python file: its name must end in .py"),
        ("./folder", "'./folder' is a folder: name a file in it, or the package as a module"),
        ("./a.b.py", "'./a.b.py' cannot be imported, because its name has a dot in it: rename the file"),
        (
            "./json.py",
            (
                f"'./json.py' cannot be imported, because Python has another module 'json' ({json.__file__}): "
                "rename the file"
            ),
        ),
        (
            "./time.py",
            "'./time.py' cannot be imported, because Python has another module 'time' (built in): rename the file",
        ),
        ("", "APP is empty: write module, module:object or a file such as ./chat.py"),
    ],
)
def test_a_file_that_cannot_be_the_application_is_refused(
    error_of: ErrorOf, run: Run, tmp_path: Path, app: str, error: str
) -> None:
    for name in ("found.py", "found.txt", "a.b.py", "json.py", "time.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    assert error_of(app) == (2, error.format(cwd=tmp_path))
    assert run.calls == []


# --- the built-in application and its secret ---


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_the_secret_reaches_the_built_in_application_and_nobody_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    argv = ["--log-level", "debug", "--bind", ":3000", "--handshake-timeout", "3"]
    if source == "flag":
        argv += ["--secret", "hunter2"]
    elif source == "environment":
        monkeypatch.setenv("WSBROKER_SECRET", "hunter2")
    else:
        Path("ws.toml").write_text('secret = "hunter2"')
        argv += ["--config", "ws.toml"]
    assert cli.main(argv) == 0
    assert json.loads(run.config.worker_arg or "") == {"secret": "hunter2", "auth_timeout_s": 3}
    assert "setting secret=(hidden) from=" in caplog.text
    assert "hunter2" not in caplog.text + repr(run.config)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            ["--worker-kind", "thread"],
            (
                "--worker-kind is thread, but the built-in application runs inline only, where its 'delivered' is "
                "exact: leave it out, or name an APP of your own for that"
            ),
        ),
        (
            ["--workers", "4"],
            (
                "--workers is 4, but the built-in application has one worker, in the event loop: "
                "leave it out, or name an APP of your own for that"
            ),
        ),
        (
            ["--worker-arg", "hunter2"],
            "--worker-arg is for an APP of your own: the built-in application takes --secret or WSBROKER_SECRET",
        ),
        (["--secret", ""], "--secret is empty: give a secret, or leave it out to serve without one"),
        (
            ["--secret", "hunter2\n"],
            "--secret starts or ends with a space or holds a line break, which no client could send",
        ),
        (
            ["app", "--secret", "hunter2"],
            (
                "--secret is for the built-in application only: hand 'app' its secret with --worker-arg, "
                "which its handle_worker_start(arg) is called with"
            ),
        ),
        (
            ["app", "--worker-kind", "inline", "--workers", "2"],
            (
                "--workers is 2, but --worker-kind is inline, and handlers in the event loop have one worker: "
                "leave the number out, or choose another kind"
            ),
        ),
    ],
)
def test_settings_that_do_not_fit_the_application_are_refused(
    error_of: ErrorOf, run: Run, argv: list[str], error: str
) -> None:
    assert error_of(*argv) == (2, error)
    assert run.calls == []


def test_what_the_built_in_application_does_anyway_may_be_said(run: Run) -> None:
    for argv in (["--worker-kind", "auto"], ["--worker-kind", "inline"], ["--workers", "1"], ["--workers", "auto"]):
        assert cli.main(argv) == 0
        assert run.config.worker_kind == "inline"


def test_an_empty_secret_in_the_environment_is_no_open_door(error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSBROKER_SECRET", "")
    assert error_of() == (2, "WSBROKER_SECRET is empty: give a secret, or leave it out to serve without one")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_secret_in_the_environment_that_the_application_does_not_know_is_a_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WSBROKER_SECRET", "hunter2")
    assert cli.main(["app"]) == 0
    assert run.config.worker_arg is None
    assert warnings_of(caplog) == [
        (
            "WSBROKER_SECRET is set, but only the built-in application knows it: nothing is protected by it; "
            "hand it to your own with --worker-arg"
        )
    ]


def test_serving_the_built_in_application_to_others_without_a_secret_is_a_warning(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    assert cli.main(["--bind", ":3000", "--bind", "localhost:3000", "--bind", "unix:/x", "--bind", "10.0.0.1:0"]) == 0
    after = "may publish and subscribe: set WSBROKER_SECRET, or bind to 127.0.0.1:3000"
    assert warnings_of(caplog) == [
        f"anyone who can reach http://*:3000 {after}",
        f"anyone who can reach http://10.0.0.1:0 {after}",
    ]


def test_an_application_of_the_users_may_listen_anywhere(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert cli.main(["app", "--bind", ":3000"]) == 0
    assert warnings_of(caplog) == []


def test_unknown_variables_and_a_low_limit_of_open_files_are_warnings(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WSBROKER_MAX_MESAGE_SIZE", "1")
    monkeypatch.setattr("wsbroker.settings.descriptors.fd_warning", lambda limit: f"too low for {limit}")
    assert cli.main(["app", "--max-connections", "9"]) == 0
    assert warnings_of(caplog) == [
        (
            "the environment variable WSBROKER_MAX_MESAGE_SIZE is unknown and ignored; "
            "did you mean 'WSBROKER_MAX_MESSAGE_SIZE'?"
        ),
        "too low for 9",
    ]


# --- errors ---


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--max-mesage-size", "1"], "there is no flag --max-mesage-size; did you mean '--max-message-size'?"),
        (["--max_message_size", "1"], "there is no flag --max_message_size; did you mean '--max-message-size'?"),
        (["--zzz"], "there is no flag --zzz"),
        (["-z"], "there is no flag -z"),
        (["app", "--port", "3000"], "there is no flag --port; write --bind HOST:PORT"),
        (["app", "-p3000"], "there is no flag -p; write --bind HOST:PORT"),
        (["--uds", "x"], "there is no flag --uds; write --bind unix:/PATH"),
        (["--ssl-keyfile=x"], "there is no flag --ssl-keyfile; a proxy in front speaks TLS, this server does not"),
        (["3000"], "'3000' is an address and no APP: to listen there, write --bind 127.0.0.1:3000"),
        ([":3000"], "':3000' is an address and no APP: to listen there, write --bind :3000"),
        (["http://[::1]:3/"], "'http://[::1]:3/' is an address and no APP: to listen there, write --bind [::1]:3"),
        (["http://[::1]"], "'http://[::1]' is an address and no APP: to listen there, write --bind [::1]:3000"),
        (["http://a/b"], "'http://a/b' is an address and no APP: to listen there, write --bind a:3000"),
        (["ws://"], "'ws://' is an address and no APP: to listen there, write --bind 127.0.0.1:3000"),
        (["fd://3"], "'fd://3' is an address and no APP: to listen there, write --bind fd://3"),
        (["unix:///s"], "'unix:///s' is an address and no APP: to listen there, write --bind unix:/s"),
        (
            ["app", "--unix-group", "no such"],
            "--unix-group is 'no such', and this machine has no group of that name: create the group (groupadd), or "
            "write the name or number of another one",
        ),
        (["app", "--reload=true"], "--reload takes no value"),
        (["--bind"], "--bind needs a value"),
        (["app", "--workers"], "--workers needs a value"),
        (["a", "b"], "one APP is served, not several: got 'a' and 'b'; flags start with --"),
        (
            ["--bind", "localhost"],
            (
                "--bind: cannot bind to 'localhost': the port is missing; write HOST:PORT (such as 127.0.0.1:3000), "
                ":PORT for all interfaces, [IPV6]:PORT, unix:/PATH, or fd://3 for a socket that is open"
            ),
        ),
        (["--bind", ":1", "--bind", ":1"], "--bind: cannot bind to ':1': it is named twice; once is enough"),
        (
            ["--max-message-size", "64K"],
            "--max-message-size is '64K', but must be a size such as 65536, 64KiB or 1MiB",
        ),
        (["--max-queue-bytes", "0"], "--max-queue-bytes is 0B, but must be from 1B to 1GiB"),
        (["app", "--workers", "0"], "--workers is 0, but must be from 1 to 1024"),
        (["--ping-interval", "0"], "--ping-interval is 0s, but must be from 0.01s to 86400s"),
        (
            ["app", "--worker-kind", "threads"],
            (
                "--worker-kind is 'threads', but must be auto, inline, thread, interpreter or process; "
                "did you mean 'thread'?"
            ),
        ),
        (["--compression"], "--compression is on, but this version cannot compress messages yet: leave it off"),
        (
            ["--log-level", "verbose"],
            "--log-level is 'verbose', but must be debug, info, warning, error or critical",
        ),
        (["--config", "no.toml"], "--config: cannot read no.toml: No such file or directory"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(error_of: ErrorOf, run: Run, argv: list[str], error: str) -> None:
    assert error_of(*argv) == (2, error)
    assert run.calls == []


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("WORKERS", "many", "WSBROKER_WORKERS is 'many', but must be a whole number, or auto"),
        ("PING_INTERVAL", "2d", "WSBROKER_PING_INTERVAL is '2d', but must be a duration such as 10, 10s, 500ms or 1m"),
        ("COMPRESSION", "ja", "WSBROKER_COMPRESSION is 'ja', but must be on or off"),
        ("LOG", "loud", "WSBROKER_LOG is 'loud', but must be debug, info, warning, error or critical"),
        ("BIND", ":1,:1", "WSBROKER_BIND: cannot bind to ':1': it is named twice; once is enough"),
        ("CONFIG", "no.toml", "WSBROKER_CONFIG: cannot read no.toml: No such file or directory"),
        ("APP", "./no.py", "there is no file './no.py' in {cwd}"),
    ],
)
def test_an_error_in_the_environment_names_the_variable(
    error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, error: str
) -> None:
    monkeypatch.setenv(f"WSBROKER_{variable}", value)
    assert error_of() == (2, error.format(cwd=tmp_path))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_mesage_size = 1", "ws.toml has an unknown key 'max_mesage_size'; did you mean 'max_message_size'?"),
        ("max_queue_bytes = 0", "max_queue_bytes in ws.toml is 0B, but must be from 1B to 1GiB"),
        ("bind = ':1,:1'", "bind in ws.toml: cannot bind to ':1': it is named twice; once is enough"),
        (
            "bind = []",
            (
                "bind in ws.toml: there is no address to listen on: write HOST:PORT (such as 127.0.0.1:3000), "
                ":PORT for all interfaces, [IPV6]:PORT, unix:/PATH, or fd://3 for a socket that is open"
            ),
        ),
        ("log_level = 'loud'", "log_level in ws.toml is 'loud', but must be debug, info, warning, error or critical"),
        (
            "app = 'app'\nsecret = 'hunter2'",
            (
                "secret in ws.toml is for the built-in application only: hand 'app' its secret with --worker-arg, "
                "which its handle_worker_start(arg) is called with"
            ),
        ),
        (
            "app = 'app'\nworkers = 2\nworker_kind = 'inline'",
            (
                "workers in ws.toml is 2, but worker_kind in ws.toml is inline, and handlers in the event loop have "
                "one worker: leave the number out, or choose another kind"
            ),
        ),
    ],
)
def test_an_error_in_the_file_names_the_file_and_the_key(error_of: ErrorOf, text: str, error: str) -> None:
    Path("ws.toml").write_text(text)
    assert error_of("--config", "ws.toml") == (2, error)


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("cannot import 'x': no"), 2, "cannot import 'x': no"),
        (ConfigError("two\n  lines"), 2, "two lines"),
        (
            describe_bind_error(TcpAddress("127.0.0.1", 3000), OSError(errno.EADDRINUSE, "in use")),
            3,
            (
                "cannot bind to http://127.0.0.1:3000: port 3000 is in use; stop what listens there, or choose another "
                "port (0: any free one)"
            ),
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            3,
            (
                "cannot bind to http://127.0.0.1:3000: permission denied; ports below 1024 need privileges, "
                "choose a higher one"
            ),
        ),
        (WorkerError("worker 1 does not start"), 4, "worker 1 does not start"),
        (CommandError("a server runs already"), 1, "a server runs already"),
    ],
)
def test_what_serving_raises_is_one_line_and_its_exit_code(
    error_of: ErrorOf, run: Run, raised: Exception, code: int, line: str
) -> None:
    run.error = raised
    assert error_of("app") == (code, line)


def test_the_traceback_of_an_error_is_shown_at_debug_level_only(
    run: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run.error = ConfigError("cannot import 'x'")
    run.error.__cause__ = ModuleNotFoundError("No module named 'y'")
    assert cli.main(["x"]) == 2
    assert "Traceback" not in caplog.text
    assert cli.main(["x", "--log-level", "DEBUG"]) == 2
    assert "ModuleNotFoundError: No module named 'y'" in caplog.text
    assert capsys.readouterr().err == "wsbroker: error: cannot import 'x'\n" * 2


def test_too_few_descriptors_are_told_in_one_line(run: Run, error_of: ErrorOf) -> None:
    run.error = OSError(errno.EMFILE, "Too many open files")
    text = "Too many open files: raise the limit of open files (ulimit -n, LimitNOFILE)"
    assert error_of("app") == (1, text)


def test_an_unexpected_error_keeps_its_traceback(run: Run) -> None:
    for error in (ZeroDivisionError(), OSError(errno.EIO, "Input/output error")):
        run.error = error
        with pytest.raises(type(error)):
            cli.main(["app"])


def test_an_interruption_before_the_signals_are_taken_is_130(run: Run) -> None:
    run.error = KeyboardInterrupt()
    assert cli.main(["app"]) == 130


# --- logging ---


@pytest.mark.parametrize(
    ("argv", "variable", "level"),
    [([], "", "INFO"), ([], "debug", "DEBUG"), (["--log-level", "Error"], "debug", "ERROR")],
)
def test_the_log_level_is_set_for_the_whole_program(
    run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str], variable: str, level: str
) -> None:
    monkeypatch.setenv("WSBROKER_LOG", variable)
    assert cli.main(["app", *argv]) == 0
    assert logging.getLevelName(logging.getLogger().level) == level


def test_where_each_setting_comes_from_is_told_at_debug_level(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WSBROKER_MAX_QUEUE_BYTES", "2MiB")
    assert cli.main(["app", "--log-level=debug", "--worker-arg", "hunter2"]) == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "wsbroker.cli"]
    assert "setting max_queue_bytes=2MiB from=WSBROKER_MAX_QUEUE_BYTES" in lines
    assert "setting worker_arg=(hidden) from=--worker-arg" in lines
    assert "hunter2" not in caplog.text


# --- help and version ---


def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_help_says_each_setting_with_its_default_in_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_text(capsys, monkeypatch)
    for name, setting in SETTINGS.items():
        (line,) = re.findall(rf"^  {sources.flag_name_of(name)} .*$", text, re.MULTILINE)
        assert setting.help in line
        assert line.endswith("]") or setting.hidden, line
    assert re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE) == [
        "Serving", "Workers", "Messages", "Connections", "HTTP", "Time", "Other", "Exit codes"
    ]  # fmt: skip


def test_the_help_and_the_module_document_the_same_exit_codes(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_text(capsys, monkeypatch)
    assert cli.__doc__ is not None
    for code in (cli.OK, cli.UNEXPECTED, cli.USAGE, cli.CANNOT_BIND, cli.WORKER_FAILED):
        assert re.search(rf"^  {code}  +\w", text, re.MULTILINE)
        assert re.search(rf"^    {code}  +\w", cli.__doc__, re.MULTILINE)
    assert "130, 143" in text


def test_the_version_says_how_the_core_runs(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = types.ModuleType("wsbroker.build")
    build.__dict__.update(package_version=lambda: "0.1.0", core_kind=lambda: "compiled")
    monkeypatch.setitem(sys.modules, "wsbroker.build", build)
    assert cli.main(["--version"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert (first, second) == ("wsbroker 0.1.0", "core: compiled")
    assert re.fullmatch(r"python: 3\.\d+\.\S+ \(\w+\)", third)


def test_the_command_line_is_loaded_without_the_server(run: Run) -> None:
    names = {"aiohttp", "anyio", "uvloop", "asyncio", "wsbroker.server.api"}
    assert not names & set(vars(cli))
