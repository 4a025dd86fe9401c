"""Kind `interpreter`: a subinterpreter with its own lock, in a thread of the server. A stuck worker cannot be ended."""

import marshal
import socket
import sys
from typing import Final

from wsbroker.errors import ConfigError, WSBrokerError
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.kinds import subinterpreters
from wsbroker.pool.kinds.host import StartArguments, WorkerHost
from wsbroker.worker.loader import is_subinterpreter_refusal
from wsbroker.worker.logs import configured_log_levels

logger = GuardedLog(__name__)

INTERPRETER_PROGRAM: Final = """
import marshal, sys
sys.path[:], sys.argv[:], start = marshal.loads(start)
from wsbroker.worker.entry import interpreter_main
interpreter_main(*start)
"""
"""The program of the interpreter. It sets `sys.path`, because an interpreter does not inherit changes of it."""


class ModuleRefused(ConfigError):
    """A module that the handlers import cannot be loaded in a subinterpreter.

    Args:
        problem: names the module and the module that imports it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; use worker kind 'process', which takes every module")
        self.problem = problem


class InterpreterHost(WorkerHost):
    """Runs a worker in a subinterpreter.

    All interpreters of a process share its descriptors: the stream ends passed to `run` are owned and closed on this
    side, the interpreter uses duplicates.
    """

    def __init__(self, name: str, start_arguments: StartArguments) -> None:
        super().__init__(name, start_arguments)
        self._interpreter: subinterpreters.Interpreter | None = None
        self._is_given_up = False

    def run(self, wire_end: socket.socket, control_end: socket.socket) -> None:
        """Creates the subinterpreter, runs the worker in it in this thread, and destroys the interpreter."""
        options = {
            **self.start_arguments.options,
            "name": self.name,
            "owns_interpreter": True,
            "log_levels": configured_log_levels(),
        }
        start = (wire_end.fileno(), control_end.fileno(), self.start_arguments.spec, options)
        interpreter = self._interpreter = subinterpreters.create_interpreter(self.name)
        if self._is_given_up:
            interpreter.prepare_forced_exit()
        failure = interpreter.run_program(
            INTERPRETER_PROGRAM, marshal.dumps([self.start_arguments.sys_path, sys.argv, start])
        )
        if failure:
            logger.error("worker ended by an exception worker=%s\n%s", self.name, failure.rstrip())
            self.end_reason = failure.strip().splitlines()[-1]
        # Before the interpreter is destroyed: the broker learns of the end, even if handlers have left threads running.
        wire_end.close()
        control_end.close()
        interpreter.try_destroy()

    def kill(self) -> bool:
        """Prepares for the exit of the process and returns False: a subinterpreter cannot be ended from outside."""
        self._is_given_up = True
        if self._interpreter is not None:
            self._interpreter.prepare_forced_exit()
        return False

    def make_start_error(self, text: str, detail: str, is_config_error: bool) -> WSBrokerError:
        """Makes a `ModuleRefused` if a module refused to be loaded in a subinterpreter; else as for every kind."""
        if is_subinterpreter_refusal(text) or is_subinterpreter_refusal(detail):
            return ModuleRefused(text)
        return super().make_start_error(text, detail, is_config_error)
