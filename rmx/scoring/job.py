"""`rmx score`: a file of rows in, a file of answers out, in memory that does not grow with either."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from rmx.errors import ConfigError, DataError, counted
from rmx.scoring.judges import NotEmpty, PanelKeys, RowFormat
from rmx.values import Count, Mistake, refuse_wrong_fields

__all__ = ["HowFar", "ScoreJob"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HowFar:
    """How far a job is."""

    rows: float  # of this process's share, those of earlier runs included
    earlier: int  # of them, answered by an earlier run
    total: int | None  # rows of the input; None where counting would cost too much
    tokens: int  # computed by this run, what candidates share counted once for each of them


@dataclass(frozen=True, kw_only=True)
class ScoreJob(PanelKeys):
    """What `rmx score` is asked for.

    Args:
        model: a run folder, a model folder or a hub id; several are an ensemble.
        input: a file, a glob, a folder, a dataset of the hub, a list of them, or - for JSON lines on standard input.
        output: .jsonl, .jsonl.gz, .csv or .parquet, or - for JSON lines on standard output. A table has
            the columns that the shape of the rows and the options can fill: id, where, reward, tokens, truncated; with
            several responses a row rewards, ranks, best, margin; with several models members, stds, disagreement; with
            on_bad_row=skip error; with best_of_n prompt, response, reward, margin, best, truncated, candidates.
        best_of_n: write the winners only: the best of the first n candidates of each row, with its text.
        combine: several models: `mean`, `min`, or `lower` = mean - k * std.
        k: standard deviations, of `lower`.
        center: how rewards of several models are brought onto one scale: `prompt`, `calibration`, or `none`.
        calibration: rows to measure each model's mean and spread on, for center=calibration.
        calibrated: rewards on the scale that `rmx export --format calibrated` wrote into the model.
        format: the row shape; `auto` looks at the first rows.
        columns: rmx's column name → the file's.
        ignore: columns of text that are left out on purpose.
        on_bad_row: `error` stops at a row that cannot be scored, `skip` writes the reason as its answer.
        max_tokens: the longest sequence; by default the limit of each model's training.
        truncation: longer ones: `keep_end` cuts the beginning of the prompt, `error` is a bad row.
        precision: of the computation.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        max_tokens_per_micro_batch: tokens computed at once (memory only).
        window_rows: rows read, sorted by length and written at a time.
        part: "2/4" scores the second of four shares of the rows; torchrun sets it for its processes.

    >>> ScoreJob(model="outputs/hh", input="rows.jsonl", output="scores.jsonl").models
    ['outputs/hh']
    """

    input: NotEmpty | Annotated[list[str], MinLen(1)]
    output: NotEmpty
    best_of_n: Annotated[int, Ge(2)] | None = None
    format: RowFormat = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    on_bad_row: Literal["error", "skip"] = "error"
    window_rows: Count = 1024
    part: NotEmpty | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        refuse_wrong_fields(self, "", also=list(self._mistakes()))

    def _mistakes(self) -> Iterator[Mistake]:
        yield from self.panel_mistakes()
        if self.part is not None and _part(str(self.part)) is None:
            yield Mistake("part", f"{self.part!r} is not I/N with I from 1 to N, such as 2/4")

    @property
    def inputs(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else list(self.input)

    @cached_property
    def share(self) -> tuple[int, int]:
        """Which share of the rows this process scores: (number from 1, of how many)."""
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        if ranks == 1:
            return _part(self.part or "1/1") or (1, 1)
        if self.part is not None:
            raise ConfigError("part: torchrun gives each of its processes a share already; leave it out")
        return int(os.environ["RANK"]) + 1, ranks

    @cached_property
    def place(self) -> Path | None:
        """The file to write, None for standard output; under torchrun with the process's share in its name."""
        number, count = self.share
        if self.output == "-":
            if count > 1 and self.part is None:
                raise ConfigError("output: standard output (-) would mix the processes' answers; give a file")
            return None
        path = Path(self.output).expanduser()
        if count == 1 or self.part is not None:
            return path
        stem, dot, kind = path.name.partition(".")
        return path.with_name(f"{stem}.part-{number}-of-{count}{dot}{kind}")

    def run(self, progress: Callable[[HowFar], None] | None = None) -> int:
        """Score all rows; return how many rows have answers.

        Raises:
            InputError: the model, the input or the output cannot be used; the message says which and what to do.
            NonFiniteError: a model gives NaN.
        """
        from rmx.data.unlabelled import RowsToScore
        from rmx.scoring.answers_file import AnswersFile, AnswersSink, StreamedAnswers

        rows = RowsToScore(self.inputs, format=self.format, columns=self.columns, ignore=self.ignore)
        place = self.place
        sink: AnswersSink = StreamedAnswers() if place is None else AnswersFile(place, self._settings())
        try:
            panel = self._panel()
            answered = _Answering(self, rows, sink, panel, progress).run()
            sink.finish(self._columns(one_response=rows.account.format == "single"))
        finally:
            sink.close()
        return answered

    def _columns(self, *, one_response: bool) -> tuple[str, ...]:
        """The columns of a .csv or .parquet output."""
        from rmx.scoring.answers_file import answer_columns

        return answer_columns(
            one_response=one_response,
            several_models=len(self.models) > 1,
            winners=self.best_of_n is not None,
            errors=self.on_bad_row == "skip",
        )

    def _settings(self) -> dict[str, Any]:
        """What answers depend on, for those who continue."""
        from rmx.data.read.kinds import is_local

        names = (
            *("best_of_n", "combine", "k", "center", "calibration", "format", "columns", "ignore", "on_bad_row"),
            *("max_tokens", "truncation", "precision", "calibrated"),
        )
        places = [str(Path(path).expanduser().resolve()) if is_local(path) else path for path in self.models]
        weights = [_weights_of(Path(place)) for place in places]
        return {"model": places, "weights": weights, "part": list(self.share)} | {n: getattr(self, n) for n in names}

    def _panel(self) -> Any:
        device = None
        if self.device is None and "LOCAL_RANK" in os.environ:
            import torch

            if torch.cuda.is_available():
                device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        return self.load_panel(device)


class _Answering:
    """One job on its way through the rows."""

    def __init__(self, job: ScoreJob, rows: Any, sink: Any, panel: Any, progress: Callable[[HowFar], None] | None):
        self.job, self.rows, self.sink, self.panel, self.progress = job, rows, sink, panel, progress
        self.total = rows.count()
        self.tokens = 0
        self.done = sink.rows

    def run(self) -> int:
        """Go through all windows."""
        seen, digest = 0, hashlib.sha256()
        number, count = self.job.share
        window: list[Any] = []
        earlier = self.sink.rows
        for row in self.rows:
            if seen == 0:
                log.info("%s: read as %s", self.rows.source, self.rows.account.detected)
            seen += 1
            digest.update(_fingerprint(row))
            if seen <= earlier:
                if seen == earlier and digest.hexdigest() != self.sink.digest:
                    raise DataError(
                        f"input: its first {earlier} rows are not those that {self.job.output} was begun with; "
                        "give the same input to continue, or another output"
                    )
                continue
            if (seen - 1) % count == number - 1:
                window.append(row)
            if len(window) == self.job.window_rows:
                self._answer(window, seen, digest.hexdigest())
                window = []
        if seen < earlier:
            raise DataError(f"input: has {counted(seen, 'row')}, and {earlier} are answered already; it is another one")
        if window or seen > self.done:
            self._answer(window, seen, digest.hexdigest())
        if self.rows.account.rejected:
            refused = ", ".join(f"{n} {reason}" for reason, n in self.rows.account.rejected.items())
            log.info("rows with an error for an answer: %s", refused)
        unread = [name for name, column in self.rows.account.columns.items() if column["use"] == "unused"]
        if unread:
            log.info("columns not read: %s", ", ".join(unread))
        return seen

    def _answer(self, window: Sequence[Any], rows: int, digest: str) -> None:
        bad = next((row for row in window if row.fault is not None), None)
        if bad is not None and self.job.on_bad_row == "error":
            raise _bad_row(bad.where, bad.fault)
        good = [row for row in window if row.fault is None]
        begun = self.done

        def shown(share: float) -> None:  # the last one follows the write
            if self.progress is not None and (share < 1.0 or self.done > begun):
                self.progress(HowFar(begun + share * (rows - begun), self.sink.rows, self.total, self.tokens))

        comparisons = [row.comparison for row in good]
        if self.job.best_of_n is not None:
            comparisons = [self._first_n(comparison) for comparison in comparisons]
        judged = iter(self.panel.judge(comparisons, shown) if comparisons else [])
        answers = []
        for row in window:
            said = {"error": row.fault} if row.fault is not None else self._said(row, next(judged))
            answers.append({"id": row.id, "where": row.where, **said})
        self.sink.append(answers, rows, digest)
        self.done = rows
        shown(1.0)

    def _first_n(self, comparison: Any) -> Any:
        from dataclasses import replace

        n = self.job.best_of_n or 0
        if len(comparison.responses) < n and self.job.on_bad_row == "error":
            raise _bad_row(
                comparison.where, f"has {counted(len(comparison.responses), 'candidate')}, fewer than best_of_n={n}"
            )
        return replace(comparison, responses=comparison.responses[:n])

    def _said(self, row: Any, judgement: Any) -> dict[str, Any]:
        if judgement.refusal is not None and self.job.on_bad_row == "error":
            raise _bad_row(row.where, judgement.refusal)
        self.tokens += sum(judgement.tokens)
        n = self.job.best_of_n
        if n is not None and judgement.refusal is None and len(judgement.rewards) < n:
            return {"error": f"{counted(len(judgement.rewards), 'candidate')}, fewer than best_of_n={n}"}
        answer: dict[str, Any] = judgement.answer()
        if n is None or judgement.refusal is not None:
            return answer
        kept: dict[str, Any] = {
            name: answer[name] for name in ("reward", "margin", "best", "truncated", "disagreement") if name in answer
        }
        best = row.comparison.responses[answer["best"]]
        return {"prompt": list(row.comparison.prompt), "response": list(best), **kept, "candidates": n}


def _bad_row(where: str, why: str) -> DataError:
    return DataError(
        f"input: {where}: {why}; put the row right and give the same command again, or give on_bad_row=skip, which "
        "writes the reason as its answer"
    )


def _part(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    return (number, count) if 1 <= number <= count else None


def _fingerprint(row: Any) -> bytes:
    one = row.comparison
    said = [row.id, row.fault] if one is None else [row.id, one.prompt, one.responses, one.tools]
    return json.dumps(said, ensure_ascii=False).encode("utf-8") + b"\n"


def _weights_of(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of a folder's weights: another training into the same folder is another model."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("model/*.safetensors")])
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
