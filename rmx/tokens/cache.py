"""Encoded sets kept on disk, so that the second run starts training in seconds.

    <cache>/tokens/<key>/             a complete set (rmx.tokens.store)
    <cache>/tokens/<key>.lock         held while it is being made
    <cache>/tokens/.<key>.*           being made; becomes <key> by one rename

The key is a digest of everything that the ids depend on: the rows, the final template, the tokenizer, the limits and
the library versions. A run that is killed leaves at most a hidden folder, which the next one of the same set removes.
Two runs that start at once wait for one another. All sets together have a limit (rmx.tokens.trim).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash
from filelock import FileLock, Timeout

from rmx.files import new_folder, remove_folder, remove_unfinished
from rmx.records import Comparison, EncodedComparison
from rmx.tokens.chunk import BadRow, ChunkEncoder, Truncation
from rmx.tokens.control import serialised
from rmx.tokens.encode import CHUNK, chunks
from rmx.tokens.store import VERSION, EncodedRows, Writer
from rmx.tokens.tally import TruncationReport
from rmx.tokens.trim import cache_limit_bytes, mark_used, trim

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.templates import BoundTemplate

__all__ = ["cache_folder", "cached_encode", "content_key"]

log = logging.getLogger(__name__)

Rows = Sequence[Comparison] | Callable[[], Iterable[Comparison]]


def cache_folder() -> Path | None:
    """Where rmx keeps what it can make again: `$RMX_CACHE`, else `$XDG_CACHE_HOME/rmx`, else `~/.cache/rmx`.

    `RMX_CACHE=off` means nowhere.
    """
    chosen = os.environ.get("RMX_CACHE")
    if chosen is not None and chosen.lower() in ("", "off", "0", "false", "no"):
        return None
    if chosen is not None:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rmx"


def content_key(rows: Iterable[Comparison]) -> str:
    """Digest of everything in the rows that ids, pairs and predictions depend on (not of where they were read).

    >>> row = Comparison("1", "s", ({"role": "user", "content": "a"},), (), ())
    >>> content_key([row]) == content_key([row]), content_key([row]) == content_key([row, row])
    (True, False)
    """
    digest = xxhash.xxh3_128()
    for row in rows:
        pairs = [(p.winner, p.loser, p.margin, p.target, p.weight, p.tie) for p in row.pairs]
        text = json.dumps(
            (row.id, row.source, row.prompt, row.responses, pairs, row.tools, row.truth),
            ensure_ascii=False,
            default=repr,  # numpy's numbers
        )
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


def cached_encode(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    *,
    max_tokens: int,
    truncation: Truncation = "keep_end",
    on_bad_row: BadRow = "error",
    content: str | None = None,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Sequence[EncodedComparison], TruncationReport]:
    """`rmx.tokens.encode`, or its result from an earlier run; either way the ids stay on disk and are mapped.

    Memory does not grow with the set (but for some 40 bytes a row of positions) when `rows` is a function that
    returns a new iterator each time it is called.

    Args:
        rows: comparisons, or a function that starts reading them anew.
        tokenizer, template, max_tokens, truncation, on_bad_row: as for `encode`.
        content: a digest that stands for the rows, where the caller has one cheaper than reading them all.
        folder: where to keep sets; `cache_folder()` by default. Without one, or where it cannot be written,
            the set is encoded into memory.
        progress: called with the number of rows after each chunk that is encoded.

    Raises:
        DataError: as `encode`.
        ConfigError: RMX_CACHE_GB is no number.
    """

    def new_worker() -> ChunkEncoder:
        return ChunkEncoder(tokenizer, template, max_tokens=max_tokens, truncation=truncation, on_bad_row=on_bad_row)

    worker = new_worker()
    root = folder if folder is not None else cache_folder()
    if root is None:
        return _in_memory(rows, worker, progress)
    key = _key(worker, tokenizer, template, content or content_key(_start(rows)))
    final = root / "tokens" / key
    limit = cache_limit_bytes()
    found = _read(final)
    if found is None:
        try:
            with _locked(final.with_name(f"{key}.lock")):
                found = _read(final) or _write(rows, worker, final, progress)
            trim(final.parent, limit)
        except OSError as error:
            log.warning("the token cache %s cannot be written (%s); encoding into memory", root, error)
            return _in_memory(rows, new_worker(), progress)
    mark_used(final)
    return found, found.report


def _start(rows: Rows) -> Iterable[Comparison]:
    return rows() if callable(rows) else rows


def _encoded(
    rows: Rows, worker: ChunkEncoder, progress: Callable[[int], None] | None
) -> Iterator[list[EncodedComparison]]:
    for chunk in chunks(_start(rows), CHUNK):
        yield worker.encode(chunk)
        if progress is not None:
            progress(len(chunk))


def _in_memory(
    rows: Rows, worker: ChunkEncoder, progress: Callable[[int], None] | None
) -> tuple[list[EncodedComparison], TruncationReport]:
    encoded = [row for chunk in _encoded(rows, worker, progress) for row in chunk]
    return encoded, worker.finish()


def _key(worker: ChunkEncoder, tokenizer: PreTrainedTokenizerBase, template: BoundTemplate, content: str) -> str:
    import tokenizers
    import transformers

    digest = xxhash.xxh3_128()
    for part in (
        f"{VERSION} {transformers.__version__} {tokenizers.__version__}",
        f"{worker.max_tokens} {worker.truncation} {worker.on_bad_row}",
        template.jinja,
        f"{template.start_token} {template.end_token} {template.text_arguments} {template.control_tokens}",
        serialised(tokenizer),
        content,
    ):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


def _read(folder: Path) -> EncodedRows | None:
    """The finished set in `folder`; a damaged one is moved out of the way."""
    if not folder.is_dir():
        return None
    try:
        rows = EncodedRows(folder)
    except ValueError as error:
        log.warning("the cached set %s is made again: %s", folder, error)
        try:
            remove_folder(folder)
        except OSError:
            log.debug("another run has moved %s already", folder)
        return None
    log.debug("%d encoded comparisons read from %s (RMX_CACHE)", len(rows), folder)
    return rows


def _write(rows: Rows, worker: ChunkEncoder, final: Path, progress: Callable[[int], None] | None) -> EncodedRows:
    remove_unfinished(final.parent, final.name)
    with new_folder(final) as building:
        writer = Writer(building)
        try:
            for chunk in _encoded(rows, worker, progress):
                writer.add(chunk)
            writer.finish(worker.finish())
        finally:
            writer.abandon()
    try:
        rows_on_disk = EncodedRows(final)
        log.debug("%d encoded comparisons kept in %s (RMX_CACHE)", len(rows_on_disk), final)
        return rows_on_disk
    except ValueError as error:
        raise OSError(f"what was written cannot be read back: {error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` for this process; the system lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("another run is encoding the same set; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
