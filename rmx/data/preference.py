"""`PreferenceData`: one preference dataset, as a frozen spec whose verb `read` does the work.

What reads files is imported by that verb: a configuration is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from rmx.data.accounting import Accounting, Splits
from rmx.data.holdout import SplitBy
from rmx.data.names import renamings, safe_names
from rmx.errors import ConfigError
from rmx.records import Comparison
from rmx.values import AtLeastZero, Count, Seed, Share, refuse_wrong_fields

__all__ = ["PreferenceData"]


@dataclass(frozen=True)
class PreferenceData:
    """Preference rows from files or the hub, as training comparisons and named evaluation sets.

    Args:
        path: a file, a glob, a folder, a list of them, or the id of a dataset on the hub.
        name: the source's name, in ids and per-source metrics; by default the file's.
        split: split of a hub dataset or folder, `a+b` for two; null takes `train`, or the only one not for tests.
        config: configuration of a hub dataset or folder; null takes the only one, or the default.
        revision: commit or tag of a hub dataset.
        format: the row shape; `auto` looks at the first rows.
        columns: rmx's column name → the file's, for example `{chosen: better, rejected: worse}`.
        ignore: columns of text, messages or images that are left out on purpose; others that are not read are asked
            about.
        allow_empty_prompt: whether most rows may have no prompt, so that whole texts are compared.
        tags: names of keys and roles inside messages, in LLaMA-Factory's words, for example `{role_tag: speaker,
            content_tag: text, user_tag: client, assistant_tag: agent}`.
        where: rows to use, as column → condition or as an expression; see `rmx.data.where`.
        validation_fraction: share of rows put aside as evaluation set `eval`, by prompt; 0 for none.
        validation_by: `prompt_hash`: a row's side depends on its prompt and the seed alone, so rows that are added
            later move none, and the share is met on average; `count`: exactly the share of these rows.
        eval_sets: further evaluation sets: name → path, or name → keys of this spec that differ.
        max_samples: at most this many rows, drawn at random by `seed`, before the split.
        on_bad_row: `error` stops with the list of bad rows, `skip` leaves them out.
        max_bad_fraction: with `skip`, the share of bad rows above which the file is refused.
        on_overlap: a pair that stands in training and in an evaluation set: `error`, `drop_train` leaves it out of
            training, `allow` only reports it.
        ties: rows without a winner (votes and targets at one half, too): `drop`, or `keep` as a third outcome (target
            0.5 for losses without ties).
        min_gap: the least difference of scores, the winner's minus the loser's, that makes a pair; a pair that is
            labelled against its own scores has a negative one.
        margin_from_scores: factor from a score difference to a margin in reward units; 0 for none. A label that its
            own scores contradict is counted, and gets no margin from them. When votes turn a pair round, its own
            `margin` turns with it, and is 0 where it would be negative.
        pair_weighting: K ranked responses give K(K-1)/2 pairs, which weigh 1 `each`, or 1 together `per_prompt`.
        repeated_roles: two turns of one role in a row: `keep`, `merge` into one, or `reject` the row.
        max_tokens: the longest sequence, prompt and response; the tokeniser cuts or drops what is longer.
        truncation: what happens to longer ones: `keep_end` of the prompt, `drop` the row, or `error`.
        streaming: keep the rows on disk, for sets larger than memory; ids are then always `source:line`.
        seed: of the split and of `max_samples`.

    >>> PreferenceData(path="pairs.jsonl").source
    'pairs'
    """

    path: Annotated[str, MinLen(1)] | Annotated[list[str], MinLen(1)]
    name: str | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    format: Literal[
        "auto",
        "preference",
        "choices",
        "dialogue",
        "sharegpt",
        "alpaca",
        "last_turn",
        "ranked",
        "votes",
        "strength",
        "scored",
        "pointwise",
        "label_studio",
        "tree",
        "messages",
    ] = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    allow_empty_prompt: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    where: str | dict[str, Any] | None = None
    validation_fraction: Share = 0.1
    validation_by: SplitBy = "prompt_hash"
    eval_sets: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    max_samples: Count | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    max_bad_fraction: Share = 0.05
    on_overlap: Literal["error", "drop_train", "allow"] = "error"
    ties: Literal["drop", "keep"] = "drop"
    min_gap: AtLeastZero = 0.0
    margin_from_scores: AtLeastZero = 0.0
    pair_weighting: Literal["each", "per_prompt"] = "each"
    repeated_roles: Literal["keep", "merge", "reject"] = "keep"
    max_tokens: Count = 2048
    truncation: Literal["keep_end", "drop", "error"] = "keep_end"
    streaming: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        refuse_wrong_fields(self, "data")
        if self.where:
            from rmx.data.where import compile_where

            compile_where(self.where)
        if "eval" in safe_names(self.eval_sets).values() and self.validation_fraction > 0:
            raise ConfigError(
                "data.eval_sets.eval: data.validation_fraction makes a set of this name; set it to 0, or rename yours"
            )
        if self.tags:
            from rmx.data.rows.messages import TAGS

            unknown_tags = set(self.tags) - set(TAGS)
            if unknown_tags:
                raise ConfigError(f"data.tags.{min(unknown_tags)}: unknown; known: {', '.join(TAGS)}")
        own = {item.name for item in fields(self)}
        for name, given in self.eval_sets.items():
            unknown = set(given) - own if isinstance(given, dict) else set()
            if unknown:
                raise ConfigError(f"data.eval_sets.{name}: unknown key {sorted(unknown)[0]}; known: {sorted(own)}")

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    @property
    def source(self) -> str:
        """The name of the source: `name`, or the first file's name without suffixes."""
        return self.name or Path(self.paths[0].rstrip("/")).name.split(".")[0] or "data"

    def read(self, output_dir: Path | None = None) -> Splits:
        """Read, convert and split; rejects.jsonl goes to `output_dir`.

        Raises:
            DataError: nothing readable, bad rows that are not allowed, or nothing left.
            OutputError: `output_dir` cannot be written to.
        """
        from rmx.data.assemble import assemble
        from rmx.data.collect import collect

        accounting = Accounting(notes=renamings(self.eval_sets))
        rows = collect(self, accounting, output_dir)
        return assemble(rows, accounting, self, self.eval_readers(output_dir), output_dir)

    @property
    def say_columns(self) -> Callable[[Mapping[str, str]], str] | None:
        """How a mapping of columns is written, where it is not the key `columns`."""
        return None

    def part(self, name: str, key: str) -> PreferenceData:
        """This spec as the source `name` of a mixture, which splits for all its sources; nothing is read.

        Raises:
            ConfigError: it cannot be one; `key` is what stands before the names of its keys.
        """
        if self.streaming:
            raise ConfigError(f"{key}.streaming: a mixture holds its rows in memory; use caps")
        return replace(self, name=name, validation_fraction=0.0)

    def resolved(self, key: str) -> PreferenceData:
        """The spec that names files and columns: this one; `key` as for `part`."""
        return self

    def eval_readers(self, output_dir: Path | None = None) -> dict[str, Callable[[Accounting], Sequence[Comparison]]]:
        """What reads the further evaluation sets, by name; rows that are streamed lie in `output_dir`."""
        from rmx.data.collect import collect

        readers: dict[str, Callable[[Accounting], Sequence[Comparison]]] = {}
        given_as = {name: given for given, name in safe_names(self.eval_sets).items()}
        for name, spec in self.eval_specs().items():
            given = self.eval_sets[given_as[name]]
            own = isinstance(given, dict) and "ignore" in given
            keys = frozenset(given) if isinstance(given, dict) else frozenset()
            readers[name] = partial(
                collect, spec, spool=output_dir, key=f"data.eval_sets.{name}", inherited=not own, given=keys
            )
        return readers

    def eval_specs(self) -> dict[str, PreferenceData]:
        """The further evaluation sets as specs: this one with another path, name and the keys given.

        `split`, `config` and `revision` belong to a path, so a set with a path of its own does not take them over.
        """
        specs = {}
        for given, name in safe_names(self.eval_sets).items():
            value = self.eval_sets[given]
            keys = {"path": value} if isinstance(value, str) else dict(value)
            place = {"split": None, "config": None, "revision": None} if "path" in keys else {}
            specs[name] = replace(self, **{"name": name, "max_samples": None, "eval_sets": {}, **place, **keys})
        return specs
