"""A judge behind an OpenAI-style endpoint: asked which of two responses is better, in both orders."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmx.data.suites import SuiteRow
from rmx.errors import DataError, ModelError

__all__ = ["EndpointJudge"]

INSTRUCTION = (
    "You compare two responses to the same conversation. Decide which one helps more: is it correct, complete, safe "
    "and to the point? Length and order say nothing. End with exactly one of [[A]], [[B]], or [[C]] for equally good."
)
_VERDICT = re.compile(r"\[\[([ABC])\]\]")


@dataclass
class EndpointJudge:
    """A model behind `POST {url}/chat/completions`.

    Attributes:
        url: base of the API, such as http://127.0.0.1:8000/v1.
        model: the name that the endpoint knows.
        key: bearer token, or None.
        timeout_seconds: for one answer.
        workers: requests at a time.
    """

    url: str
    model: str
    key: str | None = None
    timeout_seconds: float = 120.0
    workers: int = 8

    def rewards(
        self, rows: Sequence[SuiteRow], progress: Callable[[int, int], None] | None = None
    ) -> tuple[list[np.ndarray], dict[str, int]]:
        """Judge rows of two responses, each in both orders.

        A response gets +1 for every order in which it wins and -1 where it loses: 2 and -2 when both orders agree, 0
        and 0 when they contradict each other (as JudgeBench counts). An answer without a verdict counts for neither.

        Returns:
            The rewards [2] of each row, and counts: answers, refused answers, verdicts of a tie, rows whose two orders
            differ.

        Raises:
            DataError: a row has more than two responses.
            ModelError: the endpoint cannot be reached or refuses the request.
        """
        wide = next((row for row in rows if len(row.responses) != 2), None)
        if wide is not None:
            raise DataError(
                f"judge: row {wide.id} has {len(wide.responses)} responses, and a judge compares two; use one of the "
                "suites rewardbench, judgebench, pairs, or ppe's human preference"
            )
        counts = {"answers": 0, "refused": 0, "judge_ties": 0, "inconsistent": 0}
        found = []
        with ThreadPoolExecutor(self.workers) as pool:
            for done, (first, second) in enumerate(pool.map(self._both_orders, rows), 1):
                counts["answers"] += 2
                counts["refused"] += (first is None) + (second is None)
                counts["judge_ties"] += (first == 0) + (second == 0)
                counts["inconsistent"] += first != second
                lead = float((first or 0) + (second or 0))
                found.append(np.array([lead, -lead]))
                if progress is not None:
                    progress(done, len(rows))
        return found, counts

    def _both_orders(self, row: SuiteRow) -> tuple[int | None, int | None]:
        """+1 where the first response wins, -1 where the second does, 0 for a tie, None without a verdict."""
        straight = self._ask(row, 0, 1)
        swapped = self._ask(row, 1, 0)
        return straight, None if swapped is None else -swapped

    def _ask(self, row: SuiteRow, a: int, b: int) -> int | None:
        parts = [_shown("Conversation", row.prompt), _shown("Response A", row.responses[a])]
        content = "\n\n".join([*parts, _shown("Response B", row.responses[b])])
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}]
        answer = self._post({"model": self.model, "messages": messages, "temperature": 0})
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ModelError(f"judge: {self.url} answers without choices[0].message.content") from None
        verdicts = _VERDICT.findall(text or "")
        return {"A": 1, "B": -1, "C": 0}[verdicts[-1]] if verdicts else None

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode("utf-8", errors="replace"), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise ModelError(f"judge: {self.url} answers {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"judge: {self.url} gives no answer ({getattr(error, 'reason', error)})") from None


def _shown(title: str, messages: Sequence[dict[str, Any]]) -> str:
    body = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return f"<{title}>\n{body}\n</{title}>"
