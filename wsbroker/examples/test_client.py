"""A client that connects, sends three messages a second apart, prints the messages that it receives, and closes.

    python -m wsbroker.examples.test_client [URL] [--interval SECONDS]

With ``wsbroker.examples.basic`` on the other side every message comes back. Any WebSocket library will do; this one
is aiohttp's, which is installed with WSBroker anyway.
"""

import argparse
import asyncio
import contextlib

import aiohttp

MESSAGES = ("hello", "how are you?", "goodbye")
ANSWER_TIMEOUT_S = 5.0  # how long to wait for answers that are still on their way


async def send_messages(url: str, interval_s: float) -> None:
    """Connects, sends the messages, waits for their answers, and closes; another task prints the received messages."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        print(f"connected to {url}")
        all_back = asyncio.Event()
        listening = asyncio.create_task(print_messages(socket, all_back))
        for message in MESSAGES:
            print(f"> {message}")
            await socket.send_str(message)
            await asyncio.sleep(interval_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_back.wait(), ANSWER_TIMEOUT_S)
        await socket.close()
        await listening
    print(f"closed with {socket.close_code}")


async def print_messages(socket: aiohttp.ClientWebSocketResponse, all_back: asyncio.Event) -> None:
    """Prints each received message until the connection is closed; sets `all_back` when all answers have come."""
    received = 0
    async for message in socket:
        text = message.data if message.type is aiohttp.WSMsgType.TEXT else f"{len(message.data)} bytes"
        print(f"< {text}")
        received += 1
        if received == len(MESSAGES):
            all_back.set()


def main() -> None:
    """Runs the client with the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Sends three messages and prints what comes back.")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:3000/")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two messages (1)")
    options = parser.parse_args()
    try:
        asyncio.run(send_messages(options.url, options.interval))
    except (aiohttp.ClientError, ConnectionError) as error:
        raise SystemExit(f"test_client: {error}") from None


if __name__ == "__main__":
    main()
