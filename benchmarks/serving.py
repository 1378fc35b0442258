"""`python -m benchmarks.serving`: what HTTP costs: 64 clients ask `rmx serve`, and `rmx score` scores the same rows.

    python -m benchmarks.serving --requests 10000

A row is a prompt with 1 to 4 candidates, of mixed lengths; a request is one row. Every prompt is another one, or, with
--per-prompt 4, is asked about four times, as the rollouts of an RL step are; `rmx score` shares a prompt within a row
only, so there the server computes less. While the clients ask, three others disturb: one sends a byte now and then, one
goes away in the middle of its requests, one sends what is no JSON and no HTTP. Every reward has to be the one that
`rmx score` gives the row.

Server, clients and `rmx score` are processes of their own. Throughput is rows per second of the wall clock, and per CPU
second of the process that scores, from the first request (or row) to the last answer; loading is outside the clock.
The clients need the machine, too: with few cores, the ratio by CPU seconds is what the server costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
WORDS = ["why", "because", "the", "sum", "of", "two", "numbers", "is", "never", "known", "before", "it", "was", "said"]


def rows_of(count: int, per_prompt: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with ids; every prompt is asked about `per_prompt` times, one after the other."""
    rng = random.Random(seed)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    prompts = [f"{n} {text(5, 120)}" for n in range(-(-count // per_prompt))]
    return [
        {"id": str(n), "prompt": prompts[n // per_prompt], "responses": [text(2, 60) for _ in range(rng.randint(1, 4))]}
        for n in range(count)
    ]


@contextlib.contextmanager
def serving(model: Path) -> Any:
    command = [sys.executable, "-m", "rmx", "serve", f"model={model}", "port=0", "device=cpu", "timeout_seconds=600"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"http://\S+", line)
        if found:
            break
    else:
        raise SystemExit("the server did not start")
    try:
        yield process, found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        code = process.wait()
        if code != 143 or "Traceback" in said:
            raise SystemExit(f"the server ended with {code}:\n{said}")


async def ask_all(url: str, rows: list[dict[str, Any]], clients: int, answers: dict[str, Any]) -> list[float]:
    """Put all answers into `answers`, by id; the seconds that each took."""
    waiting = list(reversed(rows))
    seconds: list[float] = []

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            while waiting:
                row = waiting.pop()
                begun = time.perf_counter()
                answer = (await http.post("/score", json=row)).raise_for_status().json()
                seconds.append(time.perf_counter() - begun)
                answers[answer["id"]] = answer

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


async def disturb(url: str, answers: dict[str, Any], done: asyncio.Event) -> dict[str, int]:
    """Ask badly until the others are done, now and then as they go on; how often."""
    address = httpx.URL(url)
    counts = {"slow": 0, "gone": 0, "garbage": 0}
    body = json.dumps({"prompt": "a", "response": "b"}).encode()
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    async def further(begun: int) -> None:
        """Wait for 50 more answers, so that a slow machine is not disturbed more often than a fast one."""
        while len(answers) < begun + 50 and not done.is_set():
            await asyncio.sleep(0.02)

    async def slow() -> None:
        while not done.is_set():
            reader, writer = await asyncio.open_connection(address.host, address.port)
            for byte in head % len(body) + body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
            assert b"200" in await reader.readline()
            counts["slow"] += 1
            writer.close()

    async def gone() -> None:
        while not done.is_set():
            begun = len(answers)
            for sent in (head % len(body) + body, head % 1000 + body):  # before its answer, before its own end
                _, writer = await asyncio.open_connection(address.host, address.port)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                writer.write(sent)
                await writer.drain()
                writer.close()
                counts["gone"] += 1
            await further(begun)

    async def garbage() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            while not done.is_set():
                begun = len(answers)
                bad = await http.post("/score", content=os.urandom(2000), headers={"content-type": "application/json"})
                assert bad.status_code == 400, bad.text
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(os.urandom(200) + b"\r\n\r\n")
                await writer.drain()
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                counts["garbage"] += 2
                await further(begun)

    await asyncio.gather(slow(), gone(), garbage())
    return counts


async def watch_memory(server: psutil.Process, answers: dict[str, Any], count: int, done: asyncio.Event) -> list[int]:
    """Resident bytes of the server after each tenth of the answers."""
    found: list[int] = []
    while not done.is_set():
        await asyncio.sleep(0.1)
        while len(answers) >= count * (len(found) + 1) // 10 and len(found) < 9:
            found.append(server.memory_info().rss)
    return found


async def load(
    url: str, server: psutil.Process, rows: list[dict[str, Any]], clients: int
) -> tuple[dict[str, Any], list[float], float, Any, list[int]]:
    done = asyncio.Event()
    answers: dict[str, Any] = {}
    disturbing = asyncio.create_task(disturb(url, answers, done))
    watching = asyncio.create_task(watch_memory(server, answers, len(rows), done))
    begun = time.perf_counter()
    seconds = await ask_all(url, rows, clients, answers)
    wall = time.perf_counter() - begun
    done.set()
    return answers, seconds, wall, await disturbing, await watching


def serve_case(model: Path, rows: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    """What the server did with all rows."""
    with serving(model) as (process, url):
        server = psutil.Process(process.pid)
        asyncio.run(ask_all(url, rows[:200], clients, {}))  # what is made once is made: buffers, threads, connections
        before, cpu = server.memory_info().rss, sum(server.cpu_times()[:2])
        answers, seconds, wall, disturbed, memory = asyncio.run(load(url, server, rows, clients))
        cpu = sum(server.cpu_times()[:2]) - cpu
        after = server.memory_info().rss
        metrics = httpx.get(f"{url}/metrics").text
    seconds.sort()
    tokens = {
        kind: float(re.search(rf'rmx_tokens_total{{kind="{kind}"}} (\S+)', metrics)[1])
        for kind in ("computed", "alone")
    }
    return {
        "answers": answers, "wall": wall, "cpu": cpu, "rss": [before, *memory, after],
        "p50": seconds[len(seconds) // 2], "p99": seconds[len(seconds) * 99 // 100], "disturbed": disturbed,
        "tokens": tokens,
    }  # fmt: skip


def score_case(model: Path, rows: Path, out: Path) -> dict[str, float]:
    """`rmx score` on the same rows, loading outside the clock; runs in a process of its own."""
    from rmx.scoring.job import ScoreJob

    job = ScoreJob(model=str(model), input=str(rows), output=str(out), device="cpu")
    panel = job.load_panel()
    object.__setattr__(job, "_panel", lambda: panel)
    cpu, wall = time.process_time(), time.perf_counter()
    job.run()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def compared(answers: dict[str, Any], out: Path) -> tuple[int, float]:
    """Rows whose answer is there, and the largest difference of a reward, relative to it where it is above 1."""
    worst = 0.0
    expected = [json.loads(line) for line in out.read_text().splitlines()]
    for row in expected:
        got = answers[row["id"]]["rewards"]
        assert len(got) == len(row["rewards"])
        worst = max([worst, *(abs(a - b) / max(1.0, abs(b)) for a, b in zip(got, row["rewards"], strict=True))])
    return len(expected), worst


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--per-prompt", type=int, default=1, help="requests of one prompt")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/serving.json")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.score:
        print(json.dumps(score_case(given.score / "model", given.score / "rows.jsonl", given.score / "out.jsonl")))
        return
    from benchmarks.scoring import make_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = rows_of(given.requests, given.per_prompt)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        make_model(folder / "model", [row["prompt"] for row in rows], given.hidden, given.layers)
        served = serve_case(folder / "model", rows, given.clients)
        command = [sys.executable, "-m", "benchmarks.serving", "--score", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        scored = json.loads(done.stdout.splitlines()[-1])
        count, worst = compared(served.pop("answers"), folder / "out.jsonl")
    write_result(given, served, scored, count, worst)


def write_result(
    given: argparse.Namespace, served: dict[str, Any], scored: dict[str, float], count: int, worst: float
) -> None:
    mib = 2**20
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "versions": {name: version(name) for name in ("torch", "transformers", "fastapi", "uvicorn")},
        "model": {"hidden": given.hidden, "layers": given.layers},
        "requests": given.requests,
        "requests_per_prompt": given.per_prompt,
        "clients": given.clients,
        "disturbing_requests": served["disturbed"],
        "answers": count,
        "largest_difference_from_rmx_score": worst,
        "rows_per_second": {"serve": count / served["wall"], "score": count / scored["wall"]},
        "rows_per_cpu_second": {"serve": count / served["cpu"], "score": count / scored["cpu"]},
        "ratio": {"wall": scored["wall"] / served["wall"], "cpu": scored["cpu"] / served["cpu"]},
        "latency_seconds": {"p50": served["p50"], "p99": served["p99"]},
        "rss_mib": [round(size / mib) for size in served["rss"]],  # before, after each tenth
        "tokens": served["tokens"],
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
