"""The file of answers: written window by window so that a killed job goes on where it was, whole once it has its name.

    .scores.jsonl.rows         JSON lines so far      ─┐ both on the disk after every window
    .scores.jsonl.progress     rows, bytes, settings  ─┘
    scores.jsonl               all of them, once the last row is answered

What a kill left behind the last finished window is cut off, so no row is answered twice and none is left out. The
input is read again up to that row, and has to be the same one.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from rmx.errors import OutputError
from rmx.files import fsync_folder, write_bytes, write_json

__all__ = ["AnswersFile", "AnswersSink", "StreamedAnswers", "answer_columns"]

KINDS = (".jsonl", ".jsonl.gz", ".ndjson", ".csv", ".parquet")
STDOUT = "-"


class AnswersSink(Protocol):
    """Where answers go."""

    rows: int  # answered in earlier runs
    digest: str  # of those rows of the input

    def append(self, answers: Sequence[Mapping[str, Any]], rows: int, digest: str) -> None:
        """Write the answers of a window, which ends after `rows` rows of the input."""

    def finish(self, columns: Sequence[str]) -> None:
        """All rows are answered; `columns` are those that a table has."""

    def close(self) -> None:
        """No more is written by this process."""


class StreamedAnswers:
    """Answers as JSON lines on standard output; a killed job starts anew."""

    rows, digest = 0, ""

    def append(self, answers: Sequence[Mapping[str, Any]], rows: int, digest: str) -> None:
        """Write a window."""
        sys.stdout.writelines(line_of(answer) for answer in answers)
        sys.stdout.flush()

    def finish(self, columns: Sequence[str]) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held."""


class AnswersFile:
    """Answers in a file; see above.

    Args:
        final: the file to write.
        settings: what the answers depend on; a job with other settings does not continue this one's work.

    Raises:
        OutputError: the file is there already, of no known kind, being written by another process, or was begun with
            other settings.
    """

    def __init__(self, final: Path, settings: Mapping[str, Any]) -> None:
        self.final, self.settings = final, json.loads(json.dumps(settings))
        if not final.name.lower().endswith(KINDS):
            raise OutputError(
                f"output: {final} is of no known kind; end it with {', '.join(KINDS)}, or give - for stdout"
            )
        if not final.parent.is_dir():
            raise OutputError(f"output: there is no folder {final.parent}; make it first")
        if final.exists():
            raise OutputError(f"output: {final} exists and is never written over; remove it, or give another name")
        self._partial = final.with_name(f".{final.name}.rows")
        self._progress = final.with_name(f".{final.name}.progress")
        self._lock = FileLock(final.with_name(f".{final.name}.lock"), timeout=0)
        self.rows, self.digest, self._bytes = 0, "", 0
        with self._writing():
            try:
                self._lock.acquire()
            except Timeout:
                raise OutputError(f"output: another process is writing {final}; wait for its end") from None
            try:
                self._continue()
            except BaseException:  # whatever ended this process's work, another one may continue
                self._lock.release()
                raise

    def append(self, answers: Sequence[Mapping[str, Any]], rows: int, digest: str) -> None:
        """Write a window, and then that it is written.

        Raises:
            OutputError: the disk refuses; what was answered before is kept.
        """
        text = "".join(line_of(answer) for answer in answers).encode("utf-8")
        with self._writing():
            with self._partial.open("r+b") as file:
                file.seek(self._bytes)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._bytes += len(text)
            write_json(
                self._progress, {"rows": rows, "digest": digest, "bytes": self._bytes, "settings": self.settings}
            )

    def finish(self, columns: Sequence[str]) -> None:
        """Give the file its name and its kind, whole or not at all.

        Args:
            columns: of a table, as `answer_columns` gives them; JSON lines have every key of their answers.
        """
        name = self.final.name.lower()
        with self._writing():
            if name.endswith(".gz"):
                write_bytes(self.final, packed(self._partial))
            elif name.endswith(".csv"):
                write_bytes(self.final, as_csv(self._lines(), columns))
            elif name.endswith(".parquet"):
                write_parquet(self.final, self._lines, columns)
            else:
                os.replace(self._partial, self.final)
            fsync_folder(self.final.parent)
            self._partial.unlink(missing_ok=True)
            self._progress.unlink(missing_ok=True)
            self.close()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process continue."""
        self._lock.release()

    def _continue(self) -> None:
        done = self._read_progress()
        if done is None:
            self._partial.write_bytes(b"")
            return
        if done["settings"] != self.settings:
            other = sorted(
                key
                for key in {*done["settings"], *self.settings}
                if done["settings"].get(key) != self.settings.get(key)
            )
            raise OutputError(
                f"output: {self.final} was begun with another {', '.join(other)}; give the same again to continue, "
                f"or remove {self._progress} to begin anew"
            )
        self.rows, self.digest, self._bytes = done["rows"], done["digest"], done["bytes"]
        os.truncate(self._partial, self._bytes)

    def _read_progress(self) -> dict[str, Any] | None:
        try:
            done = json.loads(self._progress.read_text(encoding="utf-8"))
            return done if self._partial.stat().st_size >= done["bytes"] else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self._partial.open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"output: {self.final} cannot be written ({error.strerror or error}); what was answered is kept: "
                "free space or rights, and give the same command again"
            ) from error


def line_of(answer: Mapping[str, Any]) -> str:
    """An answer as one line of JSON."""
    return json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n"


def packed(path: Path) -> Iterator[bytes]:
    """The file, gzip member after member."""
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 22), b""):
            yield gzip.compress(piece, 6, mtime=0)


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[bytes]:
    """A table of text: lists and messages are JSON in their cells, what is not given is empty."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, columns)
    table.writeheader()
    for row in rows:
        table.writerow({name: cell(row.get(name)) for name in columns})
        if buffer.tell() > 1 << 20:
            yield buffer.getvalue().encode("utf-8")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode("utf-8")


def cell(value: Any) -> Any:
    """A value of an answer as the cell of a table."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def answer_columns(*, one_response: bool, several_models: bool, winners: bool, errors: bool) -> tuple[str, ...]:
    """The columns of a table of answers: those that its rows can fill, known before the first one is answered.

    So files of one kind of rows and one set of options have the same columns, whatever their rows say.

    Args:
        one_response: rows of the shape `single`; rewards, ranks, best and margin would say nothing beside the reward.
        several_models: an ensemble.
        winners: best_of_n writes the winner's text.
        errors: on_bad_row=skip.

    >>> answer_columns(one_response=True, several_models=False, winners=False, errors=False)
    ('id', 'where', 'reward', 'tokens', 'truncated')
    """
    found = ["id", "where"]
    if winners:
        found += ["prompt", "response", "reward", "margin", "best", "truncated"]
        found += [*(["disagreement"] if several_models else []), "candidates"]
    else:
        found += ["reward", *([] if one_response else ["rewards", "ranks", "best", "margin"]), "tokens", "truncated"]
        found += ["members", "stds", "disagreement"] if several_models else []
    return (*found, "error") if errors else tuple(found)


def write_parquet(final: Path, rows: Any, columns: Sequence[str]) -> None:
    """Write answers as parquet, in bounded memory; messages are JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    doubles = pa.list_(pa.float64())
    kinds = dict.fromkeys(("reward", "margin", "disagreement"), pa.float64())
    kinds |= dict.fromkeys(("rewards", "stds"), doubles) | dict.fromkeys(("ranks", "tokens"), pa.list_(pa.int64()))
    kinds |= {"members": pa.list_(doubles), "truncated": pa.bool_(), "best": pa.int64(), "candidates": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    texts = ("prompt", "response")

    def batch(held: list[dict[str, Any]]) -> pa.RecordBatch:
        flat = [
            {name: cell(row[name]) if name in texts else row[name] for name in columns if name in row} for row in held
        ]
        return pa.RecordBatch.from_pylist(flat, schema=schema)

    unfinished = final.with_name(f".{final.name}.parquet")
    with pq.ParquetWriter(unfinished, schema) as writer:
        held: list[dict[str, Any]] = []
        for row in rows():
            held.append(row)
            if len(held) == 4096:
                writer.write_batch(batch(held))
                held = []
        if held:
            writer.write_batch(batch(held))
    os.replace(unfinished, final)
