"""schemathesis reads /openapi.json and asks every route what it says it takes, and what it does not: never a 5xx.

The code, the type and the shape of every answer are those that /openapi.json promises.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from small_server import wait_until

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def ask_everything(server, examples):
    """Returns how many requests were answered, by route."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.label.startswith("GET"):
                continue  # nothing in it can be wrong

            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                case.call_and_validate(checks=CHECKS)
                asked[case.operation.label] = asked.get(case.operation.label, 0) + 1

            ask()
    return asked


def check(server, examples):
    asked = ask_everything(server, examples)
    assert {label.split()[1] for label in asked} >= {
        "/score", "/classify", "/pooling", "/v1/embeddings", "/get_reward", "/v1/score/evaluation", "/v1/models",
        "/health", "/ready", "/metrics",
    }  # fmt: skip
    assert server.client.get("/ready").status_code == 200
    wait_until(lambda: server.service.accepted == 0 and server.service.limits.held == 0)


def test_no_request_makes_it_fail(server):
    check(server, 6)


@pytest.mark.slow
def test_no_request_makes_it_fail_of_many(server):
    check(server, 300)
