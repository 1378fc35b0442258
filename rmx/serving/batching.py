"""Continuous batching: one thread takes what waits, up to a budget of tokens, scores it, and looks again.

    hall ──take──▶ encoded, in the order of arrival, under the prompt of each ──a batch──▶ models ──▶ tickets

A batch begins with the prompt that has waited longest and takes in everything that waits under it (`sharing`); then the
next prompt, until `max_tokens_per_micro_batch` tokens are to be computed. What does not fit comes behind the other
prompts, so that one prompt that is asked about without end lets the others have their turn. A request that comes while
a batch is computed is in the next one.

An answer is given to the place of its question in its ticket, and to no other: batches are made of `Question`s, and
rewards are split by the number of responses that each of them has. If a batch cannot be computed, every question of it
is computed alone, so that only those fail that cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from rmx.errors import ConfigError, NonFiniteError, RmxError
from rmx.records import Comparison, EncodedComparison
from rmx.scoring.panel import Judgement, Panel, encode_each
from rmx.serving.rendered import RenderedEncoder, prompt_of_text, why_not_rendered
from rmx.serving.sharing import SharedRow, as_one_row
from rmx.serving.waiting import Hall, Question, RenderedQuery, Ticket

__all__ = ["BatchDone", "Batcher", "ScoringFailedError", "take_batch"]

log = logging.getLogger(__name__)

ENCODED_AHEAD = 256  # comparisons that are looked at for shared prompts; encoding them takes a few milliseconds


class ScoringFailedError(RmxError):
    """A comparison could not be computed, for a reason that is none of the request's."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """What one batch was."""

    comparisons: int
    tokens: int  # computed, by the first model
    tokens_alone: int  # of all its sequences, had nothing been shared
    seconds: float


Group = list[Question]


@dataclass
class Batcher:
    """The worker.

    Attributes:
        panel: who judges.
        hall: where questions wait.
        observe: told of every batch.
        died: told when the worker ends without having been asked to.
    """

    panel: Panel
    hall: Hall
    observe: Callable[[BatchDone], None] = lambda batch: None
    died: Callable[[], None] = lambda: None
    _ready: dict[Hashable, deque[Question]] = field(default_factory=dict)  # encoded, by prompt, in order of arrival

    def __post_init__(self) -> None:
        self._in_hand: list[Question] = []
        self._thread = threading.Thread(target=self._run, name="rmx-batches", daemon=True)
        self._scorers = [scorer for _, scorer in self.panel.scorers]
        self._encoders = [RenderedEncoder(scorer, self.panel.truncation) for scorer in self._scorers]
        self.why_not_rendered = why_not_rendered(self._scorers)

    @property
    def budget(self) -> int:
        """Tokens of a batch."""
        return self._scorers[0].max_tokens_per_micro_batch

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def finish(self, timeout: float | None = None) -> bool:
        """Answer all who wait, then end; returns whether it has ended within `timeout` seconds."""
        self.hall.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- the worker's thread ---

    def _run(self) -> None:
        try:
            while (arrived := self._arrivals()) is not None:
                self._in_hand = arrived
                self._encode(arrived)
                batch = take_batch(self._ready, self.budget, self._scorers[0].engine.encoding == "shared")
                self._in_hand = [question for group in batch for question in group]
                if batch:
                    self._answer(batch)
        except BaseException:  # the end of a thread: nobody above could tell; the process ends with 1
            log.exception("the worker has died; no more requests are answered")
            self.hall.close()
            self._fail_all()
            self.died()

    def _arrivals(self) -> list[Question] | None:
        """Questions to encode; waits only where there is nothing else to do. None at the end."""
        held = sum(map(len, self._ready.values()))
        arrived = self.hall.take(max(ENCODED_AHEAD - held, 0), wait=not held)
        return None if arrived is None else [question for question in arrived if not question.ticket.abandoned]

    def _encode(self, questions: Sequence[Question]) -> None:
        """Give questions their ids and put them under their prompts; those that are refused have their answer."""
        comparisons = [question for question in questions if isinstance(question.asked, Comparison)]
        texts = [question for question in questions if isinstance(question.asked, RenderedQuery)]
        refused: list[Question] = []
        for group, encode in ((comparisons, self._of_comparisons), (texts, self._of_texts)):
            try:
                said = encode(group) if group else []
            except Exception as error:  # noqa: BLE001  a tokenizer or a template of any make: its request fails alone
                said = [self._alone(encode, question, error, len(group)) for question in group]
            for question, (encoded, prompt) in zip(group, said, strict=True):
                if isinstance(encoded, Judgement | RmxError):
                    question.ticket.answers[question.place] = encoded
                    refused.append(question)
                    continue
                question.encoded = encoded
                self._ready.setdefault(question if prompt is None else prompt, deque()).append(question)
        self._settle(refused)

    def _alone(self, encode: Any, question: Question, error: Exception, count: int) -> Any:
        """One question of a group that could not be encoded as a whole."""
        if count > 1:
            try:
                return encode([question])[0]
            except Exception as own:  # noqa: BLE001  as above
                error = own
        log.error("a request could not be encoded: %s", _place_of(error))
        return ScoringFailedError(f"it could not be encoded ({type(error).__name__})"), None

    def _of_comparisons(self, questions: Sequence[Question]) -> list[tuple[Any, Hashable]]:
        asked = [one.asked for one in questions if isinstance(one.asked, Comparison)]
        numbered = [replace(one, id=str(number)) for number, one in enumerate(asked)]
        by_model = [encode_each(scorer, numbered, self.panel.truncation) for scorer in self._scorers]
        said: list[tuple[Any, Hashable]] = []
        for number, one in enumerate(asked):
            refusal = next((refused[number] for _, refused in by_model if number in refused), None)
            said.append((refusal or tuple(rows[number] for rows, _ in by_model), hash(repr((one.prompt, one.tools)))))
        return said

    def _of_texts(self, questions: Sequence[Question]) -> list[tuple[Any, Hashable]]:
        if self.why_not_rendered is not None:
            return [(Judgement(refusal=self.why_not_rendered), None)] * len(questions)
        asked = [one.asked for one in questions if isinstance(one.asked, RenderedQuery)]
        by_model = [encoder.encode(asked) for encoder in self._encoders]
        template = self._scorers[0].template
        said: list[tuple[Any, Hashable]] = []
        for query, rows in zip(asked, zip(*by_model, strict=True), strict=True):
            refusal = next((row for row in rows if isinstance(row, Judgement)), None)
            prompt = prompt_of_text(query.content, template) if isinstance(query.content, str) else None
            said.append((refusal or rows, prompt))
        return said

    # --- scoring ---

    def _answer(self, batch: list[Group]) -> None:
        begun = time.perf_counter()
        questions = [question for group in batch for question in group]
        try:
            tokens = self._score(batch)
        except Exception as error:  # noqa: BLE001  out of memory, a kernel's error: the others are answered
            log.error("a batch could not be computed: %s", _place_of(error))
            tokens = sum(self._score_alone(question) for question in questions)
        alone = sum(sum(question.encoded[0].lengths) for question in questions)
        self.observe(BatchDone(len(questions), tokens, alone, time.perf_counter() - begun))
        self._settle(questions)

    def _score_alone(self, question: Question) -> int:
        try:
            return self._score([[question]])
        except Exception as error:  # noqa: BLE001  as above
            log.error("a comparison could not be computed: %s", _place_of(error))
            question.ticket.answers[question.place] = ScoringFailedError(f"it failed ({type(error).__name__})")
            return 0

    def _score(self, batch: list[Group]) -> int:
        """Put the judgements of a batch into its tickets; returns the tokens that the first model computed."""
        tokens = 0
        rewards: list[list[np.ndarray]] = []  # [model][question]
        for number, scorer in enumerate(self._scorers):
            rows = [as_one_row([question.encoded[number] for question in group]) for group in batch]
            of_model: list[np.ndarray] = []
            for group, together in zip(batch, scorer.rewards(rows), strict=True):
                sizes = [len(question.encoded[number].suffix_ids) for question in group]
                of_model += np.split(together, np.cumsum(sizes)[:-1])
            rewards.append(of_model)
            tokens = tokens or sum(map(scorer.engine.tokens, rows))
        questions = [question for group in batch for question in group]
        for question, own in zip(questions, zip(*rewards, strict=True), strict=True):
            question.ticket.answers[question.place] = self._judgement(question.encoded, own)
        return tokens

    def _judgement(self, encoded: Sequence[EncodedComparison], rewards: Sequence[np.ndarray]) -> Judgement | RmxError:
        if not all(np.isfinite(own).all() for own in rewards):
            return NonFiniteError("the model gives a reward that is not finite; its weights are damaged")
        alone = [
            Judgement(tuple(own.tolist()), row.lengths, row.truncated)
            for own, row in zip(rewards, encoded, strict=True)
        ]
        try:
            return self.panel.together(alone)
        except ConfigError as error:  # one response, and center=prompt
            return Judgement(refusal=str(error))

    # --- answers ---

    def _settle(self, questions: Iterable[Question]) -> None:
        """Hand over the tickets that are answered in full by these questions' answers."""
        done: dict[Any, list[Ticket]] = {}
        for question in questions:
            question.ticket.left -= 1
            if not question.ticket.left:
                done.setdefault(question.ticket.loop, []).append(question.ticket)
        for loop, tickets in done.items():
            _tell(loop, partial(_settle_all, tickets))

    def _fail_all(self) -> None:
        """Whoever waits for an answer hears that there will be none."""
        waiting = [*self._in_hand, *(question for group in self._ready.values() for question in group)]
        waiting += self.hall.take(len(self.hall), wait=False) or []
        for ticket in {id(question.ticket): question.ticket for question in waiting}.values():
            _tell(ticket.loop, partial(ticket.fail, ScoringFailedError("the worker has died")))


def _settle_all(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        ticket.settle()


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], Any]) -> None:
    """Have something done in the event loop; nobody waits any more where it has closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)


def take_batch(ready: dict[Hashable, deque[Question]], budget: int, shared: bool) -> list[Group]:
    """Take groups of questions under one prompt, up to `budget` tokens, and one comparison at least.

    Args:
        ready: by prompt, the one that waits longest first; what is taken is removed, and a prompt of which something
            is left comes last.
        budget: tokens to compute.
        shared: whether the model computes what sequences share once; without that no group has more than one question.
    """
    batch: list[Group] = []
    used = 0
    for prompt in list(ready):
        waiting, before, full = ready[prompt], len(batch), False
        while waiting and not full:
            if waiting[0].ticket.abandoned:
                waiting.popleft()
                continue
            group, tokens = _group(waiting, budget - used, shared)
            full = bool(batch) and used + tokens > budget
            if full:
                waiting.extendleft(reversed(group))
            else:
                batch.append(group)
                used += tokens
        if not waiting:
            del ready[prompt]
        elif len(batch) > before:
            ready[prompt] = ready.pop(prompt)  # it had its turn
        if full:
            break
    return batch


def _place_of(error: Exception) -> str:
    """The kind of an error and the line it came from; what it says may repeat a request's text."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__


def _group(waiting: deque[Question], room: int, shared: bool) -> tuple[Group, int]:
    """The first question, and those behind it that save tokens in its row and have room; and the row's tokens."""
    group = [waiting.popleft()]
    first: EncodedComparison = group[0].encoded[0]
    if not shared:
        return group, sum(first.lengths)
    row = SharedRow(first)
    while waiting and not waiting[0].ticket.abandoned:
        other = waiting[0].encoded[0]
        tokens = row.tokens_with(other)
        if tokens > room or tokens >= row.tokens + other.shared_tokens:
            break
        row.add(other)
        group.append(waiting.popleft())
    return group, row.tokens
