"""Limits and refusals: the right status code, one JSON message, and the server goes on."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_server import held, small_server, wait_until

from rmx.serving.bearer import accepts, bearer_key
from rmx.serving.waiting import Hall, HallClosed

TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
ROW = {"messages": TALK}
JSON = {"content-type": "application/json"}


def refused(response, status):
    """The one shape of every error; returns its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(response.json()) == {"error"} and set(error) == {"message", "type", "code"}
    assert error["code"] == status and "Traceback" not in response.text
    return error["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"messages": "\xff"}', 400, "not UTF-8: byte 15"),
        (b'{"margin": NaN, "prompt": "a", "response": "b"}', 400, "NaN"),
        (b'{"margin": -Infinity}', 400, "-Infinity"),
        (b"{broken", 400, "broken JSON"),
        (b"", 400, "broken JSON"),
        (b'{"prompt": "a", "prompt": "b"}', 400, "repeated key"),
        (b'{"prompt": "\\ud800"}', 400, "lone surrogate"),
        (b"[" * 100_000, 400, "nested too deep"),
        (b'{"tools": ' + b"[" * 70 + b"]" * 70 + b"}", 400, "nested too deep"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", 400, "too many digits"),
        (b"[]", 422, "has to be an object"),
        (b"{}", 422, "no known format"),
        (b'{"messages": []}', 422, "empty response"),
        (b'{"conversations": [[]]}', 422, "empty response"),
        (b'{"rows": []}', 422, "nothing to score"),
        (b'{"rows": 3}', 422, "rows: has to be a list"),
        (b'{"rows": [3]}', 422, "no known format"),
        (b'{"messages": [{"role": "wizard", "content": "x"}]}', 422, "unknown role"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 422, "empty response"),
        (b'{"prompt": "a", "responses": []}', 422, "empty response"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_bodies_are_refused_with_the_reason(server, body, status, said):
    response = server.client.post("/score", content=body, headers=JSON)
    assert said in refused(response, status)
    assert server.post("/score", ROW).status_code == 200


def test_a_row_that_the_template_refuses_fails_alone(model, tmp_path):
    """A template that takes no system message: its own reason, and the request beside it is answered."""
    from rmx.models import RewardModelSource, save_artefact
    from rmx.templates import Template

    loaded = RewardModelSource(name="tiny").load(seed=0)
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    bound = Template("strict", path=str(strict)).bind(loaded.tokenizer)
    folder = save_artefact(
        loaded, tmp_path / "model", template=bound, contract={"max_tokens": 256, "truncation": "keep_end"}
    )
    with small_server(folder) as server, ThreadPoolExecutor(2) as pool:
        with held(server.service) as go:
            bad = pool.submit(server.post, "/score", {"messages": [{"role": "system", "content": "s"}, *TALK]})
            good = pool.submit(server.post, "/score", ROW)
            go.set()
        assert "no system messages here" in refused(bad.result(), 422)
        assert good.result().status_code == 200


def test_a_body_of_ten_megabytes_is_413(server):
    big = json.dumps({"messages": [{"role": "user", "content": "x" * 10_000_000}, TALK[1]]}).encode()
    assert "max_body_bytes" in refused(server.client.post("/score", content=big, headers=JSON), 413)
    chunks = (big[i : i + 65536] for i in range(0, len(big), 65536))  # without a Content-Length
    assert "max_body_bytes" in refused(server.client.post("/score", content=chunks, headers=JSON), 413)
    wait_until(lambda: server.service.limits.held == 0)


def test_other_types_than_json_are_415(server):
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        assert "send application/json" in refused(server.client.post("/score", content=b"{}", headers=headers), 415)
    kind = {"content-type": "application/json; charset=utf-8"}
    assert server.client.post("/score", content=json.dumps(ROW), headers=kind).status_code == 200


def test_unknown_paths_and_methods_are_404_and_405(server):
    assert "/openapi.json" in refused(server.client.get("/nothing"), 404)
    assert "does not take GET" in refused(server.client.get("/score"), 405)


def test_a_full_queue_is_503_with_retry_after(model):
    with small_server(model, max_waiting=3) as server, ThreadPoolExecutor(5) as pool, held(server.service) as go:
        first = pool.submit(server.post, "/score", ROW)
        wait_until(lambda: server.service.accepted == 1 and not len(server.service.hall))
        waiting = [pool.submit(server.post, "/score", ROW) for _ in range(3)]
        wait_until(lambda: len(server.service.hall) == 3)
        full = server.post("/score", ROW)
        assert "max_waiting is 3" in refused(full, 503) and 1 <= int(full.headers["retry-after"]) <= 60
        assert "send fewer" in refused(server.post("/score", {"rows": [ROW] * 4}), 413)
        go.set()
        assert [future.result().status_code for future in [first, *waiting]] == [200] * 4


def test_too_many_bytes_at_once_are_503(model):
    with small_server(model, max_waiting_bytes=5000) as server, ThreadPoolExecutor(1) as pool:
        large = {"messages": [{"role": "user", "content": "x" * 4000}, TALK[1]]}
        with held(server.service) as go:
            first = pool.submit(server.post, "/score", large)
            wait_until(lambda: server.service.accepted == 1)
            assert "max_waiting_bytes" in refused(server.post("/score", large), 503)
            go.set()
        assert first.result().status_code == 200
        assert server.post("/score", large).status_code == 200  # what was held is free again


def test_no_answer_in_time_is_504(model):
    with small_server(model, timeout_seconds=0.3) as server:
        with held(server.service):
            assert "timeout_seconds" in refused(server.post("/score", ROW), 504)
        assert server.post("/score", ROW).status_code == 200


def test_a_body_that_does_not_come_is_408(model):
    with small_server(model, timeout_seconds=0.3) as server:
        host, port = server.client.base_url.host, server.client.base_url.port
        with socket.create_connection((host, port), timeout=10) as slow:
            slow.sendall(
                b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        wait_until(lambda: server.service.limits.held == 0)


def test_a_body_that_is_still_coming_when_the_server_ends_is_503(model):
    with small_server(model) as server:
        host, port = server.client.base_url.host, server.client.base_url.port
        body = json.dumps(ROW).encode()
        with socket.create_connection((host, port), timeout=10) as half:
            half.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            half.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body[:20])
            wait_until(lambda: server.service.limits.held == 20)
            server.service.draining = True
            half.sendall(body[20:])
            assert half.recv(1000).startswith(b"HTTP/1.1 503")
        server.service.draining = False


def test_what_is_no_http_does_not_disturb(server):
    host, port = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection((host, port), timeout=10) as rude:
        rude.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert rude.recv(1000).startswith(b"HTTP/1.1 400")
    assert server.post("/score", ROW).status_code == 200


# --- the key ---


def test_the_key_is_asked_for(model):
    with small_server(model, key=b"top-secret") as server:
        for headers in ({}, {"authorization": "Bearer top-secres"}, {"authorization": "Basic top-secret"}):
            answer = server.post("/score", ROW, headers=headers)
            message = refused(answer, 401)
            assert "top-secret" not in message and answer.headers["www-authenticate"] == "Bearer"
        assert server.post("/score", ROW, headers={"authorization": "Bearer top-secret"}).status_code == 200
        assert server.client.get("/health").status_code == server.client.get("/ready").status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json"):
            assert server.client.get(path).status_code == 401


def test_where_the_key_comes_from(tmp_path, monkeypatch):
    from rmx.errors import ConfigError

    monkeypatch.delenv("RMX_SERVE_KEY", raising=False)
    file = tmp_path / "key"
    file.write_text("from-file\nnot this\n")
    assert bearer_key(None) is None and bearer_key(str(file)) == b"from-file"
    monkeypatch.setenv("RMX_SERVE_KEY", "from-env")
    assert bearer_key(None) == b"from-env"
    with pytest.raises(ConfigError, match="give one of them"):
        bearer_key(str(file))
    monkeypatch.setenv("RMX_SERVE_KEY", " ")
    with pytest.raises(ConfigError, match="one word of printable ASCII"):
        bearer_key(None)
    monkeypatch.delenv("RMX_SERVE_KEY")
    with pytest.raises(ConfigError, match="cannot be read"):
        bearer_key(str(tmp_path / "none"))
    assert not accepts(b"key", b"") and not accepts(b"key", b"Bearer") and accepts(b"key", b"bearer  key ")


# --- faults of the model ---


def test_a_model_that_gives_nan_is_500_and_says_so(model):
    with small_server(model) as server:
        weight = server.service.panel.scorers[0][1].engine.model.score.weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(torch.nan)
        assert "not finite" in refused(server.post("/score", ROW), 500)
        with torch.no_grad():
            weight.copy_(before)
        assert server.post("/score", ROW).status_code == 200


def test_a_comparison_that_cannot_be_computed_fails_alone(model):
    """The computation fails whenever a response of 40 tokens is in it, as for want of memory: 1 of 6 requests fails."""
    with small_server(model) as server, ThreadPoolExecutor(6) as pool:
        scorer = server.service.panel.scorers[0][1]
        scoring = scorer.rewards

        def rewards(rows, *rest):
            if any(length > 60 for row in rows for length in row.lengths):
                raise RuntimeError("out of memory")
            return scoring(rows, *rest)

        with held(server.service) as go:
            futures = [pool.submit(server.post, "/score", ROW)]
            wait_until(lambda: server.service.accepted == 1 and not len(server.service.hall))  # it is being computed
            futures += [pool.submit(server.post, "/score", ROW) for _ in range(4)]
            long = {"messages": [TALK[0], {"role": "assistant", "content": "4" * 50}]}
            bad = pool.submit(server.post, "/score", long)
            wait_until(lambda: server.service.accepted == 6)
            scorer.rewards = rewards
            go.set()
            assert "RuntimeError" in refused(bad.result(), 500)
            assert [future.result().status_code for future in futures] == [200] * 5


def test_a_worker_that_dies_answers_those_who_wait_and_refuses_the_rest(model, monkeypatch, caplog):
    from rmx.serving import batching

    with small_server(model) as server, ThreadPoolExecutor(4) as pool:
        server.service.batcher.died = lambda: setattr(server.service, "dead", True)
        with held(server.service) as go:
            waiting = [pool.submit(server.post, "/score", ROW) for _ in range(4)]
            wait_until(lambda: server.service.accepted == 4)
            monkeypatch.setattr(batching, "take_batch", lambda *_: 1 / 0)
            go.set()
        answers = [future.result() for future in waiting]  # the batch that was begun is answered still
        assert {answer.status_code for answer in answers} == {200, 500}
        assert any("worker has died" in answer.text for answer in answers)
        assert "takes no more" in refused(server.post("/score", ROW), 503)
        refused(server.client.get("/health"), 503)
        refused(server.client.get("/ready"), 503)
    assert "ZeroDivisionError" in caplog.text


def test_a_closed_hall_gives_what_it_has_and_then_none():
    import asyncio

    from rmx.serving.waiting import RenderedQuery, Ticket

    async def enter(hall):
        hall.enter(Ticket.of(2), [RenderedQuery("a"), RenderedQuery("b")])

    hall = Hall(3)
    asyncio.run(enter(hall))
    hall.close()
    assert len(hall.take(1, wait=True)) == 1 and len(hall.take(5, wait=True)) == 1
    assert hall.take(5, wait=True) is None
    with pytest.raises(HallClosed):
        asyncio.run(enter(hall))


def test_metrics_count_what_happened(model):
    with small_server(model) as server:
        server.post("/score", {"rows": [ROW, ROW]})
        server.post("/score", {})
        server.client.get("/no-such-path-1")
        server.client.get("/no-such-path-2")
        time.sleep(0.05)  # the meters count behind the answer
        text = server.client.get("/metrics").text
    assert 'rmx_requests_total{route="/score",status="200"} 1.0' in text
    assert 'rmx_errors_total{route="/score",status="422"} 1.0' in text
    assert 'rmx_requests_total{route="other",status="404"} 2.0' in text
    assert "rmx_comparisons_total 2.0" in text and "rmx_waiting_comparisons 0.0" in text
    assert 'rmx_tokens_total{kind="alone"} 50.0' in text and "rmx_request_seconds_bucket" in text
