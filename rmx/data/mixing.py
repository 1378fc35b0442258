"""`Mixture`: several named sources as one set of training rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from rmx.data.accounting import Accounting, Splits
from rmx.data.holdout import SplitBy
from rmx.data.names import renamings, safe_names
from rmx.data.preference import PreferenceData
from rmx.data.synthetic import SyntheticData
from rmx.errors import ConfigError
from rmx.records import Comparison
from rmx.values import Count, Positive, Seed, Share, refuse_wrong_fields

__all__ = ["Mixture"]

# Keys of a spec that a mixture has for all its sources, and those that a source may say for itself.
_OF_THE_WHOLE = ("validation_fraction", "validation_by", "eval_sets", "on_overlap", "max_tokens", "truncation")
_RULES = ("on_bad_row", "max_bad_fraction")


@dataclass(frozen=True)
class Mixture:
    """Named sources, how much of each, and in which order.

    Every source keeps its name, so metrics are reported for each; the evaluation set is split off jointly, so a
    prompt that two sources share stands on one side only. Everything is a function of the files and `seed`.

    Args:
        name: of the mixture, for folders and titles; by default the sources' names, joined.
        sources: name → keys of `PreferenceData` (at least `path`), or a data spec. What is said of the mixture as a
            whole (`validation_fraction`, `eval_sets`, `max_tokens`, ...) cannot be said of a source.
        fractions: name → share of the source's good rows to use, drawn by `seed`.
        caps: name → at most this many comparisons.
        epochs: name → how often the training rows are used in one pass; 1.5 is all of them and half of them again.
        weights: name → share of the training rows with `order=interleave`; sources not named weigh 1.
        order: `concat` one after the other, or `interleave` at random; the trainer shuffles in either case.
        stop: with weights, `first_exhausted` stops at the end of the first source to end, `all_exhausted` starts
            the others again until all rows were used.
        validation_fraction: share put aside as evaluation set `eval`, by prompt, over all sources together.
        validation_by: see `PreferenceData`.
        eval_sets: further evaluation sets: name → path, or name → keys of `PreferenceData`.
        max_samples: comparisons in all, drawn by `seed`, before the split.
        on_bad_row: for sources that do not say it themselves.
        max_bad_fraction: for sources that do not say it themselves.
        on_overlap: see `PreferenceData`.
        max_tokens: see `PreferenceData`.
        truncation: see `PreferenceData`.
        seed: of everything that is drawn.

    >>> Mixture(sources={"a": {"path": "a.jsonl"}, "b": {"path": "b.jsonl"}}, caps={"b": 100}).source
    'a+b'
    """

    sources: Annotated[dict[str, Any], MinLen(1)]
    name: str | None = None
    fractions: dict[str, Annotated[float, Interval(gt=0, le=1)]] = field(default_factory=dict)
    caps: dict[str, Count] = field(default_factory=dict)
    epochs: dict[str, Positive] = field(default_factory=dict)
    weights: dict[str, Positive] = field(default_factory=dict)
    order: Literal["concat", "interleave"] = "concat"
    stop: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    validation_fraction: Share = 0.1
    validation_by: SplitBy = "prompt_hash"
    eval_sets: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    max_samples: Count | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    max_bad_fraction: Share = 0.05
    on_overlap: Literal["error", "drop_train", "allow"] = "error"
    max_tokens: Count = 2048
    truncation: Literal["keep_end", "drop", "error"] = "keep_end"
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check the sources and the numbers about them."""
        refuse_wrong_fields(self, "data")
        for key in ("fractions", "caps", "epochs", "weights"):
            numbers: dict[str, float] = getattr(self, key)
            for name in numbers:
                if name not in self.sources:
                    raise ConfigError(f"data.{key}.{name}: no such source; sources: {', '.join(self.sources)}")
        if self.weights and self.order != "interleave":
            raise ConfigError("data.weights: only order=interleave uses weights; with concat give fractions or caps")
        if "eval" in safe_names(self.eval_sets).values() and self.validation_fraction > 0:
            raise ConfigError(
                "data.eval_sets.eval: data.validation_fraction makes a set of this name; set it to 0, or rename yours"
            )
        self.specs()

    @property
    def source(self) -> str:
        """The name of the mixture."""
        return self.name or "+".join(self.sources)

    def specs(self) -> dict[str, PreferenceData | SyntheticData]:
        """The sources as specs, without a validation split of their own."""
        out: dict[str, PreferenceData | SyntheticData] = {}
        for name, given in self.sources.items():
            key = f"data.sources.{name}"
            spec = given if isinstance(given, PreferenceData | SyntheticData) else self._spec(key, given)
            for whole in _OF_THE_WHOLE:
                alike = getattr(spec, whole, None) in (_default(spec, whole), getattr(self, whole))
                if not alike or (isinstance(given, dict) and whole in given):
                    raise ConfigError(f"{key}.{whole}: holds for the mixture as a whole; give data.{whole} instead")
            if isinstance(spec, SyntheticData):
                out[name] = replace(spec, name=name, validation_fraction=0.0)
                continue
            if spec is given:  # what it does not say of bad rows, the mixture says
                unsaid = [rule for rule in _RULES if getattr(spec, rule) == _default(spec, rule)]
                spec = replace(spec, **{rule: getattr(self, rule) for rule in unsaid})
            out[name] = spec.part(name, key)
        return out

    def _spec(self, key: str, given: Any) -> PreferenceData:
        """The spec that a path or keys mean."""
        if isinstance(given, str):
            given = {"path": given}
        if not isinstance(given, dict) or "path" not in given:
            raise ConfigError(f"{key}: give at least a path, for example {{path: {key.split('.')[-1]}.jsonl}}")
        known = {item.name for item in fields(PreferenceData)}
        if unknown := set(given) - known:
            raise ConfigError(f"{key}: unknown key {min(unknown)}; known: {', '.join(sorted(known))}")
        return PreferenceData(**{"seed": self.seed, **{rule: getattr(self, rule) for rule in _RULES}, **given})

    def read(self, output_dir: Path | None = None) -> Splits:
        """Read all sources, mix and split; rejects.jsonl goes to `output_dir`.

        Raises:
            DataError: see `PreferenceData.read`.
            OutputError: `output_dir` cannot be written to.
        """
        from rmx.data.assemble import assemble
        from rmx.data.collect import collect

        accounting = Accounting(notes=renamings(self.eval_sets))
        rows: list[Comparison] = []
        for name, spec in self.specs().items():
            own = Accounting()
            if isinstance(spec, PreferenceData):
                # Entries that data=llamafactory joins share the keys of the data group.
                shared = getattr(self.sources[name], "say_columns", None) is not None
                key = "data" if shared else f"data.sources.{name}"
                found = collect(spec.resolved(key), own, key=key, inherited=shared)
            else:
                found = _generated(spec, own)
            accounting.merge(own)
            rows += self._share(name, list(found), accounting)
        if self.max_samples is not None and len(rows) > self.max_samples:
            rows = self._draw(rows, self.max_samples, "all", accounting)
        first = PreferenceData(
            path="mixture",
            on_bad_row=self.on_bad_row,
            max_bad_fraction=self.max_bad_fraction,
            seed=self.seed,
            eval_sets=self.eval_sets,
            validation_fraction=0.0,
        )
        splits = assemble(rows, accounting, self, first.eval_readers(output_dir), output_dir)
        splits.train = self._mix(list(splits.train), accounting)
        return splits

    def _share(self, name: str, rows: list[Comparison], accounting: Accounting) -> list[Comparison]:
        """The fraction or the cap of one source, in its own order."""
        count = len(rows)
        if name in self.fractions:
            count = max(1, round(self.fractions[name] * len(rows)))
        return self._draw(rows, min(count, self.caps.get(name, count)), name, accounting)

    def _draw(self, rows: list[Comparison], count: int, name: str, accounting: Accounting) -> list[Comparison]:
        if count >= len(rows):
            return rows
        taken = set(random.Random(f"{self.seed} {name}").sample(range(len(rows)), count))
        for i, row in enumerate(rows):
            if i not in taken:
                accounting.sources[row.source].kept -= 1
                accounting.sources[row.source].unused += 1
        return [row for i, row in enumerate(rows) if i in taken]

    def _mix(self, train: list[Comparison], accounting: Accounting) -> list[Comparison]:
        """The training rows in the order and number that epochs and weights ask for."""
        by_source: dict[str, list[Comparison]] = {name: [] for name in self.sources}
        for row in train:
            by_source[row.source].append(row)
        parts = {name: self._epochs(name, rows) for name, rows in by_source.items() if rows}
        mixed = [row for rows in parts.values() for row in rows] if self.order == "concat" else self._interleave(parts)
        used: dict[str, int] = dict.fromkeys(self.sources, 0)
        copies: dict[str, int] = {}
        for i, row in enumerate(mixed):
            used[row.source] += 1
            copy = copies[row.id] = copies.get(row.id, 0) + 1
            if copy > 1:
                mixed[i] = replace(row, id=f"{row.id}#{copy}")
        seen = {name: 0 for name in self.sources}
        by_id = {row.id: row.source for row in train}
        for name in (by_id[row_id] for row_id in copies):
            seen[name] += 1
        for name in self.sources:
            account = accounting.sources[name]
            left_out = len(by_source[name]) - seen[name]
            account.kept, account.unused = account.kept - left_out, account.unused + left_out
            account.train, account.repeated = used[name], used[name] - seen[name]
        return mixed

    def _epochs(self, name: str, rows: list[Comparison]) -> list[Comparison]:
        whole, part = divmod(self.epochs.get(name, 1.0), 1.0)
        rest = random.Random(f"{self.seed} epochs {name}").sample(range(len(rows)), round(part * len(rows)))
        return rows * int(whole) + [rows[i] for i in sorted(rest)]

    def _interleave(self, parts: dict[str, list[Comparison]]) -> list[Comparison]:
        draw = random.Random(f"{self.seed} interleave")
        if not self.weights:  # at random in proportion to size: all sources end together
            order = [name for name, rows in parts.items() for _ in rows]
            draw.shuffle(order)
            following = {name: iter(rows) for name, rows in parts.items()}
            return [next(following[name]) for name in order]
        names = list(parts)
        weights = [self.weights.get(name, 1.0) for name in names]
        taken = dict.fromkeys(names, 0)
        mixed: list[Comparison] = []
        while True:
            name = draw.choices(names, weights)[0]
            rows = parts[name]
            if taken[name] >= len(rows) and self.stop == "first_exhausted":
                return mixed
            mixed.append(rows[taken[name] % len(rows)])
            taken[name] += 1
            if self.stop == "all_exhausted" and all(taken[key] >= len(parts[key]) for key in names):
                return mixed


def _default(spec: Any, name: str) -> Any:
    """The default of a spec's field; None where it has no such field."""
    item = next((item for item in fields(spec) if item.name == name), None)
    if item is None:
        return None
    return item.default if item.default_factory is MISSING else item.default_factory()


def _generated(spec: SyntheticData, accounting: Accounting) -> Sequence[Comparison]:
    splits = spec.read()
    accounting.merge(splits.accounting)
    return splits.train
