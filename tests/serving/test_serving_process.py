"""`rmx serve` as a process: start, signals, and every way not to start is one message and exit code 2."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import httpx
import pytest
from tiny_models import save_base

from rmx.cli import main
from rmx.serving import server as module
from rmx.serving.server import ServeJob

ROW = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
SLOWLY = (  # every batch takes a second
    "import sys, time; from rmx.scoring.scorer import Scorer; rewards = Scorer.rewards\n"
    "def slowly(*args): time.sleep(1); return rewards(*args)\n"
    "Scorer.rewards = slowly; from rmx.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"
)


@contextlib.contextmanager
def process(model, *words, code=None, environment=()):
    """A process that serves; the address that it says it has, and its lines on standard error."""
    start = ["-c", code] if code else ["-m", "rmx", "serve"]
    command = [sys.executable, *start, f"model={model}", "port=0", "device=cpu", *words]
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **dict(environment)})
    lines: list[str] = []
    address = threading.Event()

    def read() -> None:
        for line in serving.stderr:
            lines.append(line)
            if "serving" in line:
                address.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert address.wait(60), lines
        yield serving, re.search(r"http://\S+", "".join(lines))[0], lines
    finally:
        if serving.poll() is None:
            serving.kill()
        serving.wait()
        reader.join(10)
        serving.stderr.close()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_answers_what_was_taken_in_and_refuses_what_is_new(model, number, code):
    """Three requests are being answered, one batch a second; the signal comes; a new one gets 503, the three 200."""
    with process(model, "max_tokens_per_micro_batch=30", code=SLOWLY) as (serving, url, lines):
        with ThreadPoolExecutor(3) as pool, httpx.Client(base_url=url, timeout=30) as client:
            assert client.get("/ready").status_code == 200
            taken = [pool.submit(httpx.post, f"{url}/score", json=ROW, timeout=30) for _ in range(3)]
            deadline = time.monotonic() + 20
            while "rmx_waiting_comparisons 0.0" in client.get("/metrics").text:  # until they wait
                assert time.monotonic() < deadline
            time.sleep(0.2)
            serving.send_signal(number)
            while client.get("/ready").status_code == 200:
                assert time.monotonic() < deadline
            assert client.get("/health").status_code == 200
            refused = httpx.post(f"{url}/score", json=ROW)
            assert refused.status_code == 503 and "ending" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) > 0
            assert [future.result().status_code for future in taken] == [200, 200, 200]
        assert serving.wait(20) == code
    text = "".join(lines)
    assert "answering the 3 requests taken in" in text and "every request taken in has its answer" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_second_signal_ends_at_once(model):
    """500 batches of a second are waited for; the second signal does not wait for them."""
    served = process(model, "max_tokens_per_micro_batch=30", code=SLOWLY)
    rows = [{"prompt": f"{n}+{n}?", "response": "4"} for n in range(500)]
    with served as (serving, url, lines), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{url}/score", json={"rows": rows}, timeout=120)
        deadline = time.monotonic() + 60
        while "rmx_waiting_comparisons 0.0" in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < deadline
        serving.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/ready").status_code == 200:
            assert time.monotonic() < deadline
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(120) == 143
        assert waiting.exception() is not None or waiting.result().status_code >= 500
    text = "".join(lines)
    assert "ending at once; 1 requests get no answer" in text
    assert "has its answer" not in text and "Traceback" not in text


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_process_with_1(model):
    code = (
        "import sys; from rmx.serving import batching; batching.take_batch = lambda *_: 1 / 0\n"
        "from rmx.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"
    )
    with process(model, code=code) as (serving, url, lines):
        assert httpx.post(f"{url}/score", json=ROW, timeout=30).status_code == 500
        assert serving.wait(60) == 1
    assert "rmx: the worker has died; the lines above say why" in "".join(lines)


def test_an_open_door_is_said_before_the_first_request(model):
    """The line before the address, so that nothing buries it; with a key, or on this machine alone, there is none."""
    with process(model, "host=0.0.0.0") as (_, _, lines):
        (place,) = [place for place, line in enumerate(lines) if "WARNING" in line]
        assert "no key is set: anyone who reaches 0.0.0.0 port" in lines[place] and "can score" in lines[place]
        assert "bearer_file=FILE or RMX_SERVE_KEY" in lines[place] and "serving" in lines[place + 1]
    with process(model, "host=0.0.0.0", environment={"RMX_SERVE_KEY": "a-key-of-this-test"}.items()) as (_, _, lines):
        assert "WARNING" not in "".join(lines)


@pytest.mark.slow
def test_the_key_is_in_no_output(model):
    key = {"RMX_SERVE_KEY": "a-key-of-this-test"}
    with process(model, environment=key.items()) as (serving, url, lines):
        assert httpx.post(f"{url}/score", json=ROW).status_code == 401
        headers = {"authorization": "Bearer a-key-of-this-test"}
        assert httpx.post(f"{url}/score", json=ROW, headers=headers).status_code == 200
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(20) == 143
    assert "a-key-of-this-test" not in "".join(lines)


def fails(words, capsys):
    """Exit code 2 and one message; returns it."""
    assert main(["serve", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err


def test_a_port_in_use_is_said_before_the_model_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails([f"model={tmp_path / 'none'}", f"port={port}"], capsys)
    assert f"port {port} (Address already in use)" in said and "another port=" in said


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_a_host_that_is_none_of_this_machine(host, tmp_path, capsys):
    assert host in fails([f"model={tmp_path / 'none'}", f"host={host}", "port=0"], capsys)


def test_what_is_no_reward_model(tmp_path, capsys):
    base = save_base("llama", tmp_path)
    capsys.readouterr()
    assert "no trained scalar head" in fails([f"model={base}", "port=0"], capsys)
    assert "none" in fails([f"model={tmp_path / 'none'}", "port=0"], capsys)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, capsys):
    found = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert "pip install 'rmx[serve]'" in fails(["model=x"], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "model: is needed"),
        (["model=x", "prot=1"], "did you mean port?"),
        (["model=x", "port=70000"], "port: 70000"),
        (["model=x", "port=http"], "port: 'http'"),
        (["model=x", "timeout_seconds=0"], "timeout_seconds: 0"),
        (["model=x", "max_body_bytes=0"], "max_body_bytes: 0"),
        (["model=x", "host="], "host: "),
        (["model=x", "k=2"], "is for several models"),
        (["model=[a,a]"], "names one model twice"),
        (["model=x", "bearer_file=/nowhere/key", "port=0"], "bearer_file: /nowhere/key cannot be read"),
    ],
)
def test_mistakes_are_exit_2_and_one_message(words, said, capsys):
    assert said in fails(words, capsys)


def test_a_key_on_the_command_line_is_refused_and_not_repeated(capsys):
    said = fails(["model=x", "key=my-secret-value"], capsys)
    assert "there is no such key of rmx serve" in said and "my-secret-value" not in said


def test_the_help_page_names_every_key(capsys):
    assert main(["serve", "--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {item.name}: " in page for item in fields(ServeJob))
