"""Handlers that start child processes: the message says what the child does, the answer how the child has ended."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import wsbroker

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SHOWS = f"""
import signal
print([signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler) for n in {[int(n) for n in NUMBERS]}],
    signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


class App:
    """The application with plain handlers."""

    def handle_worker_start(self, arg: str | None) -> None:
        self._pipe = arg

    def handle_http_request(self, request: wsbroker.HttpRequest) -> str:
        child = os.fork()
        if child == 0:
            return "the child speaks"
        return f"status {status_of(child)}"

    def handle_socket_message(self, data: str, socket_id: int) -> None:
        child = os.fork() if data.startswith("child ") else -1
        if child == 0:
            self._be_child(data.removeprefix("child "), socket_id)
            return
        if child > 0:
            wsbroker.send(socket_id, f"status {status_of(child)}")
        elif data == "leave a child":  # that ends when the pipe has a writer
            if os.fork() == 0:
                assert self._pipe is not None
                os.open(self._pipe, os.O_RDONLY)
                os._exit(0)
            wsbroker.send(socket_id, "left")
        else:
            wsbroker.send(socket_id, str(getattr(self, data.replace(" ", "_"))()))

    def handle_socket_close(self, socket_id: int) -> None:
        pass

    def _be_child(self, how: str, socket_id: int) -> None:
        if how == "calls":
            try:
                wsbroker.send(socket_id, "the child speaks")
            except wsbroker.CommandError:
                sys.exit(4)
        if how == "exits":
            sys.exit(7)
        if how == "raises":
            raise LookupError("the child's")
        if how == "shows":
            handlers = [signal.getsignal(number) for number in NUMBERS]
            is_default = all(each in (signal.SIG_DFL, signal.default_int_handler) for each in handlers)
            os._exit(0 if is_default and not signal.pthread_sigmask(signal.SIG_BLOCK, []) else 9)

    def forked_and_ended_at_once(self) -> int:
        """Forks a child and sends SIGTERM to it at once; returns its exit code."""
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        return status_of(child)

    def program_ended(self) -> int:
        with subprocess.Popen(["sleep", "60"]) as program:
            program.terminate()
            return program.wait()

    def program_shows(self) -> str:
        done = subprocess.run([sys.executable, "-S", "-c", SHOWS], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def pool_ended(self) -> bool:
        pool = multiprocessing.get_context("fork").Pool(1)
        assert pool.apply(os.getpid) != os.getpid()
        pool.apply_async(time.sleep, (60,))
        (member,) = pool._pool  # type: ignore[attr-defined]
        pool.terminate()
        pool.join()
        return member.exitcode in (0, -signal.SIGTERM)  # it may have been told to end before it got its task

    def process_ended(self) -> list[int | None]:
        codes = []
        for how in ("fork", "spawn"):
            child = multiprocessing.get_context(how).Process(  # type: ignore[attr-defined]
                target=time.sleep, args=(60,)
            )
            child.start()
            child.terminate()
            child.join()
            codes.append(child.exitcode)
        return codes


class AsyncApp(App):
    """The application with async handlers, in which a child reaches an `await`."""

    async def handle_http_request(self, request: wsbroker.HttpRequest) -> str:  # type: ignore[override]
        return super().handle_http_request(request)

    async def handle_socket_message(self, data: str, socket_id: int) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        before = os.getpid()
        if data == "loop's program ended":
            program = await asyncio.create_subprocess_exec("sleep", "60")
            program.terminate()
            wsbroker.send(socket_id, str(await program.wait()))
            return
        if data == "thread's child":
            wsbroker.send(socket_id, str(await asyncio.to_thread(self._fork)))
            return
        if data == "task's child":
            wsbroker.send(socket_id, str(await asyncio.create_task(self._fork_in_task())))
            return
        super().handle_socket_message(data, socket_id)
        if data.endswith("returns"):
            await asyncio.sleep(0)
            if os.getpid() != before:
                os.write(2, b"the child goes on\n")

    async def _fork_in_task(self) -> int:
        child = os.fork()
        if child == 0:
            await asyncio.sleep(0)
            os.write(2, b"the child goes on\n")
        return status_of(child)

    def _fork(self) -> int:
        child = os.fork()
        return child if child == 0 else status_of(child)


app = App()


def status_of(child: int) -> int:
    """Waits for a child's end and returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
