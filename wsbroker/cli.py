"""The command line: ``python -m wsbroker [APP] …`` and the console script ``wsbroker``.

Reads flags, environment and file into a `Config`, finds the application, and calls `wsbroker.server.api.run`.

Exit codes
    0        stopped cleanly (SIGINT or SIGTERM, or the application asked for it)
    1        an unexpected error, with a traceback: please report it; or a broken installation
    2        a usage or configuration error: flags, file, environment, or an application that cannot be loaded
    3        cannot bind: port in use, permission denied, unknown host
    4        a worker could not start, or keeps failing
    128 + n  stopped at once by a second signal n: 130 after SIGINT, 143 after SIGTERM

Every error but the unexpected one is a single line on stderr, ``wsbroker: error: …``; with ``--log-level debug`` its
traceback too. Secrets are never shown.

May import: `settings`, light modules of `server`, `process_exit`, `guarded_log`, `errors`, click; `server.api`, `build`
and `bench` inside functions only, because asyncio and aiohttp take long to load.
"""

import json
import logging
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import click

from wsbroker import process_exit
from wsbroker.errors import ConfigError, WorkerError, WSBrokerError
from wsbroker.guarded_log import GuardedLog, write_to_stderr
from wsbroker.server.application_path import find_app
from wsbroker.server.signals import install_program_signals
from wsbroker.server.standard_streams import open_standard_streams
from wsbroker.settings import descriptors, open_sockets, sources
from wsbroker.settings.addresses import BindAddress, InheritedSocket, bind_error_text, group_id_of, parse_addresses
from wsbroker.settings.checks import Setting, did_you_mean
from wsbroker.settings.config import GROUPS, SETTINGS, Config, Settings, check_settings

OK: Final = 0
UNEXPECTED: Final = 1
USAGE: Final = 2
CANNOT_BIND: Final = 3
WORKER_FAILED: Final = 4

BUILT_IN_APP: Final = "wsbroker.apps.pubsub"
DEFAULT_BIND: Final = "127.0.0.1:3000"

logger = GuardedLog(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: the arguments without the program's name; None: those of this process.
    """
    open_standard_streams()
    code = _run_command_line(argv)
    process_exit.set_expected_status(code)
    return code


def _run_command_line(argv: Sequence[str] | None) -> int:
    """Reads the arguments, runs the server or the benchmark, and returns the exit code; reports errors on stderr.

    Args:
        argv: the arguments without the program's name; None: those of this process.
    """
    is_program = argv is None
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["bench"]:  # an application of this name is reached as ./bench.py
        from wsbroker.bench.command import main as bench

        return bench(arguments[1:])
    try:
        parsed = _make_command().main(args=arguments, prog_name="wsbroker", standalone_mode=False)
        if isinstance(parsed, int):  # --help and --version
            return parsed
        options = _read_options(cast("dict[str, object]", parsed), os.environ)
        if is_program:
            install_program_signals()
        return _run_server(options)
    except click.NoSuchOption as error:
        # click adds the flag to the name of a short option: show the name as it was typed
        name = error.option_name
        return _report_error(USAGE, f"there is no flag {name}{_OTHER_SERVERS_FLAGS.get(name) or _suggest_flag(name)}")
    except click.BadOptionUsage as error:
        return _report_error(USAGE, _describe_bad_usage(error))
    except click.Abort:
        return process_exit.INTERRUPTED
    except click.ClickException as error:
        return _report_error(USAGE, error.format_message())
    except ConfigError as error:
        return _report_error(USAGE, str(error), error)
    except WorkerError as error:
        return _report_error(WORKER_FAILED, str(error), error)
    except WSBrokerError as error:
        return _report_error(UNEXPECTED, str(error), error)
    except KeyboardInterrupt:
        return process_exit.INTERRUPTED


def _report_error(code: int, text: str, error: BaseException | None = None) -> int:
    """Writes the error `text` to stderr as one line and returns the exit code `code`; first logs a traceback at DEBUG.

    Args:
        code: the exit code.
        text: the error text; its lines are joined.
        error: the exception whose traceback is logged; None: none is.
    """
    if error is not None:
        logger.debug("the error in full", exc_info=error)
    write_to_stderr(f"wsbroker: error: {' '.join(part.strip() for part in text.splitlines())}\n")
    return code


_ADDRESS_HINT: Final = "; write --bind HOST:PORT"
_TLS_HINT: Final = "; a proxy in front speaks TLS, this server does not"
_OTHER_SERVERS_FLAGS: Final = {
    **dict.fromkeys(("--host", "--port", "-p", "-b", "--listen", "--address"), _ADDRESS_HINT),
    **dict.fromkeys(("--uds", "--socket"), "; write --bind unix:/PATH"),
    "--fd": "; write --bind fd://N",
    **dict.fromkeys(("--ssl-certfile", "--ssl-keyfile", "--certfile", "--keyfile", "--tls"), _TLS_HINT),
}
"""By flag of other servers: the hint what to write instead."""


def _suggest_flag(name: str) -> str:
    """Returns ``"; did you mean '--x'?"`` with the flag closest to an unknown flag, "" if none is close."""
    flags = [
        flag for option in _make_command().params for flag in (*option.opts, *option.secondary_opts) if flag[0] == "-"
    ]
    return did_you_mean(name, flags)


def _describe_bad_usage(error: click.BadOptionUsage) -> str:
    """Returns the error text for a flag that was given a value and takes none, or was given none and needs one.

    For a name that is none of the flags this is click's own text.
    """
    name = error.option_name
    known = {flag: option for option in _make_command().params for flag in (*option.opts, *option.secondary_opts)}
    if name not in known:
        return error.format_message()
    option = known[name]
    is_switch = isinstance(option, click.Option) and option.is_flag
    return f"{name} takes no value" if is_switch else f"{name} needs a value"


# --- reading the flags, the environment and the file --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The outcome of reading all sources: the application, the addresses and the settings to serve with.

    Args:
        app: the application as it was named, or None for the built-in one.
        bind: the addresses as texts, checked.
        addresses: the addresses as `parse_addresses` reads them.
        config: all settings.
        warnings: lines to log before the start.
        reload: whether to replace the workers when the application's files change.
    """

    app: str | None
    bind: list[str]
    addresses: list[BindAddress]
    config: Config
    warnings: tuple[str, ...]
    reload: bool = False


def _read_options(flags: Mapping[str, object], environment: Mapping[str, str]) -> ServeOptions:
    """Returns what to serve and how, from flags, environment and file, strongest first; also sets up logging.

    Logging is set up as soon as its level is known. Called before the server starts.

    Raises:
        ConfigError: a value is wrong, values contradict each other, or the file cannot be read.
    """
    layers = [sources.read_flags(_select_source_flags(flags)), sources.read_environment(environment)]
    named = sources.find_config_file(flags["config"], environment)
    if named is not None:
        layers.append(sources.read_config_file(*named))
    layer = sources.merge_layers(*layers)

    _set_up_logging(sources.parse_log_level(layer["log_level"]) if "log_level" in layer else "info")
    values = {name: sources.parse_setting(name, layer[name]) for name in SETTINGS if name in layer}
    labels = {name: each.label for name, each in layer.items()}
    app = _read_app(layer)
    warnings = sources.unknown_variable_warnings(environment)
    secret = _read_secret(layer)
    if app is None:
        _configure_built_in_app(values, labels, secret)
    elif secret is not None and layer["secret"].source == "environment":
        warnings.append(
            f"{labels['secret']} is set, but only the built-in application knows it: "
            "nothing is protected by it; hand it to your own with --worker-arg"
        )
    elif secret is not None:
        raise ConfigError(
            f"{labels['secret']} is for the built-in application only: hand {app!r} its secret with --worker-arg, "
            "which its handle_worker_start(arg) is called with"
        )
    check_settings(values, labels)
    if values.get("unix_group") is not None:
        group_id_of(str(values["unix_group"]), labels["unix_group"])
    config = Config.of(**cast("Settings", values))
    bind, addresses = _read_bind_addresses(layer, warnings)
    if app is None and secret is None:
        warnings += _open_access_warnings(addresses)
    _log_sources(layer, values)
    return ServeOptions(app, bind, addresses, config, tuple(warnings), bool(flags["reload"]))


def _log_sources(layer: sources.SettingsLayer, values: Mapping[str, object]) -> None:
    """Logs each given setting with its value and its source, at level DEBUG; hides secret values.

    Args:
        layer: the given settings, as their sources have them.
        values: the same settings of `Config`, parsed.
    """
    for name, each in layer.items():
        if name in SETTINGS:
            shown = SETTINGS[name].format_value(values[name])
        else:
            shown = "(hidden)" if name == "secret" else repr(each.raw)
        logger.debug("setting %s=%s from=%s", name, shown, each.label)


def _select_source_flags(flags: Mapping[str, object]) -> dict[str, object]:
    """Returns all flags except ``config`` and ``reload``, by name: those that `sources.read_flags` takes."""
    return {name: value for name, value in flags.items() if name not in ("config", "reload")}


def _read_app(layer: sources.SettingsLayer) -> str | None:
    """Returns the application as it was named, None for the built-in one; raises ConfigError if the name cannot be one.

    Also returns None if no application is named. The error is for several names, an empty name, or an address.
    """
    if "app" not in layer:
        return None
    each = layer["app"]
    names = [str(name) for name in each.raw] if isinstance(each.raw, tuple) else [sources.parse_text("app", each)]
    if len(names) > 1:
        raise ConfigError(f"one APP is served, not several: got {' and '.join(map(repr, names))}; flags start with --")
    app = names[0]
    if not app.strip():
        raise ConfigError(f"{each.label} is empty: write module, module:object or a file such as ./chat.py")
    if re.fullmatch(r"\w+://.*|[^/]*:[0-9]+|[0-9]+", app):
        raise ConfigError(f"{app!r} is an address and no APP: to listen there, write --bind {_make_bind_text(app)}")
    return None if app == BUILT_IN_APP else app


def _make_bind_text(address: str) -> str:
    """Returns the text of ``--bind`` for an address or URL; without a port in it, that of the default address."""
    scheme, colon, rest = address.partition("://")
    if scheme in ("fd", "unix") and colon:
        return address if scheme == "fd" else f"unix:{rest}"
    host = (rest if colon else address).partition("/")[0]
    if not host:
        return DEFAULT_BIND
    if host.isdigit():
        return f"127.0.0.1:{host}"
    return host if re.search(":[0-9]+$", host) else f"{host.rstrip(':')}:{DEFAULT_BIND.rpartition(':')[2]}"


def _read_secret(layer: sources.SettingsLayer) -> str | None:
    """Returns the secret of the built-in application, None if none is set; raises ConfigError for an unusable one."""
    if "secret" not in layer:
        return None
    label = layer["secret"].label
    secret = sources.parse_text("secret", layer["secret"])
    if not secret:
        raise ConfigError(f"{label} is empty: give a secret, or leave it out to serve without one")
    if secret != secret.strip() or not secret.isprintable():
        raise ConfigError(f"{label} starts or ends with a space or holds a line break, which no client could send")
    return secret


def _configure_built_in_app(values: dict[str, object], labels: Mapping[str, str], secret: str | None) -> None:
    """Changes `values` for the built-in application: worker kind inline, the secret in the worker's argument.

    Inline, because its counts are exact there. The argument is JSON and also holds the time within which a socket has
    to authenticate: see `wsbroker.apps.access`. Raises ConfigError for given settings that do not fit.

    Args:
        values: the given settings by name, parsed.
        labels: by name, how errors call a setting.
        secret: the secret; None: there is none.
    """
    kind, workers = values.get("worker_kind", "auto"), values.get("workers")
    own = "name an APP of your own for that"
    if kind not in ("auto", "inline"):
        raise ConfigError(
            f"{labels['worker_kind']} is {kind}, but the built-in application runs inline only, "
            f"where its 'delivered' is exact: leave it out, or {own}"
        )
    if workers not in (None, 1):
        raise ConfigError(
            f"{labels['workers']} is {workers}, but the built-in application has one worker, in the event loop: "
            f"leave it out, or {own}"
        )
    if values.get("worker_arg") is not None:
        raise ConfigError(
            f"{labels['worker_arg']} is for an APP of your own: the built-in application takes --secret or "
            "WSBROKER_SECRET"
        )
    values["worker_kind"] = "inline"
    if secret is not None:
        default = SETTINGS["handshake_timeout"].default
        options = {"secret": secret, "auth_timeout_s": values.get("handshake_timeout", default)}
        values["worker_arg"] = json.dumps(options)


def _read_bind_addresses(layer: sources.SettingsLayer, warnings: list[str]) -> tuple[list[str], list[BindAddress]]:
    """Returns the addresses to listen on, as texts and as `parse_addresses` reads them.

    If no source (flag, WSBROKER_BIND, file) sets `bind`, these are all sockets that systemd has handed in, or the
    default address if there are none. Adds a warning to `warnings` for handed sockets that are not used, or that are
    meant for another process. Raises ConfigError for a wrong address or an unusable socket.
    """
    handed_in = open_sockets.systemd_sockets.claim_sockets()
    if open_sockets.explain_pid_mismatch():
        warnings.append(f"sockets that were handed in are not used: {open_sockets.explain_pid_mismatch()}")
    texts = (
        sources.parse_text_list(layer["bind"])
        if "bind" in layer
        else [str(each) for each in handed_in] or [DEFAULT_BIND]
    )
    label = layer["bind"].label if "bind" in layer else "LISTEN_FDS" if handed_in else "--bind"
    try:
        addresses = parse_addresses(texts)
        open_sockets.check_inherited_sockets(addresses)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from error
    if handed_in and not any(isinstance(address, InheritedSocket) for address in addresses):
        warnings.append(
            f"sockets that were handed in are not used: {label} names others; leave it out, or write {handed_in[0]}"
        )
    return texts, addresses


def _open_access_warnings(addresses: Sequence[BindAddress]) -> list[str]:
    """Returns a warning for each address that other machines can reach. Called if there is no secret."""
    return [
        f"anyone who can reach {address} may publish and subscribe: set WSBROKER_SECRET, or bind to {DEFAULT_BIND}"
        for each in addresses
        for address in open_sockets.listening_addresses_of(each)
        if not address.is_loopback
    ]


def _set_up_logging(level: str) -> None:
    """Sets the level of the root logger, and has its lines go to stderr unless it has handlers already.

    These are the lines of the package and the application.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(level.upper())


# --- serving ------------------------------------------------------------------------------------------------------


def _run_server(options: ServeOptions) -> int:
    """Makes the application importable, runs the server until its stop, and returns the exit code.

    Logs the warnings of `options` first. If an address cannot be bound, or descriptors run out, writes the error to
    stderr; any other error is raised.
    """
    for warning in options.warnings:
        logger.warning("%s", warning)
    worker = BUILT_IN_APP if options.app is None else find_app(options.app)
    descriptors.raise_fd_limit()
    shortage = descriptors.fd_warning(options.config.max_connections)
    if shortage is not None:
        logger.warning("%s", shortage)

    from wsbroker.server.api import run

    try:
        run(options.bind, config=options.config, worker=worker, reload=options.reload)
    except OSError as error:
        advice = descriptors.shortage_advice(error)
        if advice:
            return _report_error(UNEXPECTED, f"{error.strerror}{advice}", error)
        text = bind_error_text(error, options.addresses)
        if text is None:
            raise
        return _report_error(CANNOT_BIND, text, error)
    return OK


# --- flags and help -----------------------------------------------------------------------------------------------

_METAVARS: Final = {
    "size": "SIZE",
    "seconds": "TIME",
    "count": "N",
    "mode": "MODE",
    "choice": "WORD",
    "text": "TEXT",
    "names": "NAMES",
}
_LIST_METAVARS: Final = {"allowed_origins": "ORIGINS"}
_HELP_INTRO: Final = (
    "Serves WebSocket and HTTP on one port. APP is a module, module:object, or a file such as ./chat.py, with the "
    "handlers; without APP it is a ready-made publish/subscribe server. `wsbroker bench URL` measures a running one."
)
_HELP_NOTES: Final = (
    "Defaults stand in brackets. SIZE is 65536, 64KiB, 1MiB or 1MB; TIME is 10, 10s, 500ms or 1m; NAMES are separated "
    "by commas. Each flag is also a key of the file (max_message_size = '64KiB') and an environment variable "
    "(WSBROKER_MAX_MESSAGE_SIZE); the log level's is WSBROKER_LOG. A flag beats the environment, that the file."
)
_EXIT_CODES: Final = (
    ("0", "stopped cleanly"),
    ("1", "unexpected error"),
    ("2", "usage or configuration error, or the application cannot be loaded"),
    ("3", "cannot bind"),
    ("4", "a worker could not start or keeps failing"),
    ("130, 143", "stopped at once by a second SIGINT or SIGTERM"),
)


class _GroupedOption(click.Option):
    """A flag without a default value of its own, which stands under the heading `group` in the help."""

    def __init__(self, flag: str, group: str, help: str, metavar: str | None = None, multiple: bool = False) -> None:
        super().__init__([flag], help=help, metavar=metavar, multiple=multiple, default=None)
        self.group = group


class _GroupedHelpCommand(click.Command):
    """The command of the command line, whose help shows the flags in groups, then notes and the exit codes."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the flags to the help, in groups. Called by click."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in ("Serving", *GROUPS, "Other")}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if row is not None:
                rows[parameter.group if isinstance(parameter, _GroupedOption) else "Other"].append(row)
        for group, options in rows.items():
            with formatter.section(group):
                formatter.write_dl(options, col_max=34)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the notes and the exit codes to the help. Called by click."""
        formatter.write_paragraph()
        formatter.write_text(_HELP_NOTES)
        with formatter.section("Exit codes"):
            formatter.write_dl(_EXIT_CODES)


def _make_command() -> click.Command:
    """Returns the click command that parses the flags of ``wsbroker``; its run returns the flags' values by name."""
    options: list[click.Parameter] = [
        click.Argument(["app"], nargs=-1, type=click.UNPROCESSED, metavar="[APP]"),
        _GroupedOption(
            "--bind",
            "Serving",
            "HOST:PORT, :PORT, [IPV6]:PORT, unix:/PATH, or fd://3 or fd://NAME for a socket handed in; may be "
            f"repeated  [those handed in, or {DEFAULT_BIND}]",
            "ADDRESS",
            multiple=True,
        ),
        _GroupedOption("--config", "Serving", "TOML file with settings", "FILE"),
        _GroupedOption("--log-level", "Serving", f"{', '.join(sources.LOG_LEVELS)}  [info]", "LEVEL"),
        _GroupedOption(
            "--secret", "Serving", "secret of the built-in application; WSBROKER_SECRET does not show in ps", "TEXT"
        ),
    ]
    for group in GROUPS:
        options += [_make_option(setting) for setting in SETTINGS.values() if setting.group == group]
    options += [
        click.Option(
            ["--reload"],
            is_flag=True,
            help="exchange the workers when files of APP change; kinds inline and thread restart the process",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_version,
            help="show the version and whether the core is compiled",
        ),
    ]
    return _GroupedHelpCommand(
        "wsbroker",
        params=options,
        callback=_return_flags,
        help=_HELP_INTRO,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


def _make_option(setting: Setting) -> click.Option:
    """Returns the click option for the flag of a setting."""
    flag = sources.flag_name_of(setting.name)
    if setting.kind == "switch":
        return _GroupedOption(f"{flag}/--no-{flag[2:]}", setting.group, _make_help_text(setting))
    is_list = setting.kind == "names"
    metavar = _LIST_METAVARS.get(setting.name, _METAVARS[setting.kind])
    return _GroupedOption(flag, setting.group, _make_help_text(setting), metavar, multiple=is_list)


def _make_help_text(setting: Setting) -> str:
    """Returns the line of ``--help`` for a setting: its effect, its choices if any, and its default unless hidden."""
    choices = f": {', '.join(setting.choices)}" if setting.choices else ""
    default = "" if setting.hidden else f"  [{setting.format_value(setting.default)}]"
    return f"{setting.help}{choices}{default}"


def _return_flags(**flags: object) -> dict[str, object]:
    """Returns the values of all flags by name, as the result of the click command. Called by click."""
    return flags


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Prints the versions of package and Python and the kind of core, and ends the command. Called by click.

    Does nothing if `value` is False: ``--version`` is not given.
    """
    if not value or ctx.resilient_parsing:
        return
    from wsbroker.build import core_kind, package_version

    click.echo(f"wsbroker {package_version()}")
    click.echo(f"core: {core_kind()}")
    click.echo(f"python: {platform.python_version()} ({platform.python_implementation()})")
    ctx.exit()
