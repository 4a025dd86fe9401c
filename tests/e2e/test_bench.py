"""`wsbroker bench` and `python -m benchmarks load` against servers that run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kits.server_process import serving

CHECKOUT = Path(__file__).parents[2]
LIMIT_S = 60.0


def bench(*arguments: str, secret: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **({"WSBROKER_SECRET": secret} if secret is not None else {})}
    command = [sys.executable, "-P", "-m", "wsbroker", "bench", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)


def load(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", "load", *arguments, "--runs=1", "--warmup=0.1", "--no-pin"]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT_S)


def test_bench_measures_a_running_broker_with_its_secret_and_not_without(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with serving(environment={"WSBROKER_SECRET": "s3cret"}) as server:
        for scenario in ("rtt", "fanout", "storm"):
            arguments = (server.websocket_url, scenario, "--connections=5", "--seconds=0.1", f"--json={file}")
            done = bench(*arguments, secret="s3cret")
            assert (done.returncode, done.stderr) == (0, ""), scenario
            assert "per second" in done.stdout
            result = json.loads(file.read_text(encoding="utf-8"))
            assert (result["scenario"], result["connections"], result["wrong"]) == (scenario, 5, 0)
            assert result["count"] > 0 and result["latency_us"]["p50"] > 0
        done = bench(server.websocket_url, "--secret=wrong")
        assert done.returncode == 1
        assert "wants a secret: use --secret or WSBROKER_SECRET" in done.stderr


def test_bench_says_that_no_broker_is_there() -> None:
    done = bench("ws://127.0.0.1:1/")
    assert done.returncode == 1
    assert done.stderr == "wsbroker bench: error: cannot connect to ws://127.0.0.1:1/: Connection refused\n"


def test_an_application_named_bench_is_served_as_a_file_and_is_not_what_bench_can_measure(tmp_path: Path) -> None:
    app = "from wsbroker import send\n\n\ndef handle_socket_message(data, socket_id):\n    send(socket_id, data)\n"
    (tmp_path / "bench.py").write_text(app, encoding="utf-8")
    with serving("./bench.py", folder=tmp_path) as server:
        done = bench(server.websocket_url)
    assert done.returncode == 1
    assert "does not speak the protocol of the built-in application" in done.stderr


def test_the_load_measures_fanout_and_finds_nothing_wrong(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = load("fanout", "--connections=40", "--channels=4", "--publishers=2", "--seconds=0.3", f"--json={file}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["name"] in done.stdout
    assert (row["wrong"], row["ended"]) == (0, 0)
    assert row["rate"] > 0 and row["cpu_us"] > 0 and row["rss_per_connection"] >= 0
    assert row["latency_us"]["p50"] > 0


def test_the_load_notices_a_server_that_sends_twice(tmp_path: Path) -> None:
    app = tmp_path / "twice.py"
    app.write_text(
        "from wsbroker import send\n\n\ndef handle_socket_message(data, socket_id):\n"
        "    send(socket_id, data[2:])\n    if data[10:13] == '007':\n        send(socket_id, data[2:])\n",
        encoding="utf-8",
    )
    server = f"{sys.executable} -P -m wsbroker {app} --bind 127.0.0.1:{{port}}"
    done = load("echo", "--connections=2", "--in-flight=4", "--seconds=0.2", f"--server={server}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "unexpected" in done.stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the load reads memory from /proc here")
def test_every_other_scenario_runs() -> None:
    jobs: list[dict[str, object]] = [
        {"scenario": "echo", "connections": 4},
        {"scenario": "echo", "connections": 2, "work": 5},
        {"scenario": "question", "rate": 100.0},
        {"scenario": "storm", "connections": 4},
        {"scenario": "http", "connections": 4},
        {"scenario": "idle", "connections": 20, "channels": 2, "rate": 100.0},
        {"scenario": "stall", "connections": 10, "rate": 100.0, "stalled": 20},
    ]
    with serving(str(CHECKOUT / "benchmarks" / "load" / "app.py"), "--worker-kind=inline") as server:
        for job in jobs:
            settings = {**job, "seconds": 0.1, "runs": 1, "warmup_s": 0.0}
            order = json.dumps({"job": settings, "port": server.port, "pid": server.process.pid})
            command = [sys.executable, "-m", "benchmarks.load.generator", order]
            done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT_S)
            assert done.returncode == 0, done.stdout + done.stderr
            row = json.loads(done.stdout.splitlines()[-1])["row"]
            assert row["rate"] > 0 and row["wrong"] == 0, job
            assert row["ended"] == 0 or job["scenario"] in ("storm", "stall"), job


def benchmarks(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.full
def test_plain_http_is_measured_beside_aiohttp(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = benchmarks("http", "--rounds=1", "--seconds=0.2", "--connections=4", "--no-pin", f"--json={file}")
    assert done.returncode in (0, 1), done.stderr  # how much CPU it takes is not this test's business
    result = json.loads(file.read_text(encoding="utf-8"))
    assert [row["name"].split()[0] for row in result["rows"]] == ["aiohttp", "WSBroker"]
    for row in result["rows"]:
        assert row["wrong"] == 0 and row["cpu_us"] > 0
    assert result["failures"] == []
    assert result["claims"][0][0] in done.stdout


@pytest.mark.full
def test_a_window_for_writes_is_measured_beside_none(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    job = ("--rate=200", "--connections=5", "--seconds=0.3", "--rounds=1", "--no-pin")
    done = benchmarks("flush", "--windows=0,5", *job, f"--json={file}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == ["0 ms", "5 ms"]
    assert rows[1]["latency_us"]["p50"] > rows[0]["latency_us"]["p50"]
    assert all(row["wrong"] == 0 for row in rows)


def test_unknown_parts_of_the_report_are_refused_before_anything_is_measured() -> None:
    done = benchmarks("report", "--parts=nothing")
    assert done.returncode == 2
    assert "nothing: none of cores, http" in done.stderr
