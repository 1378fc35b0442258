"""LLaMA-Factory's `dataset_info.json`: its ranking datasets by name, without conversion.

An entry says where the rows are and what their columns and roles are called:

    "dpo_en_demo": {"file_name": "dpo_en_demo.json", "ranking": true, "formatting": "sharegpt",
                    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}}

`formatting` is `alpaca` (the default) or `sharegpt`; `tags` rename the keys and roles of messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rmx.data.accounting import Splits
from rmx.data.mixing import Mixture
from rmx.data.preference import PreferenceData
from rmx.errors import ConfigError, DataError, did_you_mean

__all__ = ["LlamaFactoryData"]

# LLaMA-Factory's name of a column's part → rmx's, and the column it means when the entry does not say
# (src/llamafactory/data/parser.py, DatasetAttr).
_PARTS: dict[str, dict[str, tuple[str, str | None]]] = {
    "alpaca": {"prompt": ("instruction", "instruction"), "query": ("input", "input"), "history": ("history", None)},
    "sharegpt": {"messages": ("conversations", "conversations")},
}
_COMMON: dict[str, tuple[str, str | None]] = {
    "chosen": ("chosen", "chosen"),
    "rejected": ("rejected", "rejected"),
    "system": ("system", None),
    "tools": ("tools", None),
}
# Parts of LLaMA-Factory's entries that hold media, or that ranking datasets do not have.
_MEDIA = ("images", "videos", "audios")
_NOT_READ = (*_MEDIA, "response", "kto_tag")


@dataclass(frozen=True)
class _Entry(PreferenceData):
    """One entry as a spec whose messages speak of dataset_info.json."""

    entry: str | None = None

    @property
    def say_columns(self) -> Callable[[Mapping[str, str]], str] | None:
        """The columns as the entry writes them."""
        return self._in_the_entry if self.entry is not None else None

    def _in_the_entry(self, mapping: Mapping[str, str]) -> str:
        names = {ours: theirs for theirs, (ours, _) in (_PARTS[self.format] | _COMMON).items()}
        names |= {"prompt": "prompt", "history": "history"} if self.format == "alpaca" else {"history": "messages"}
        columns = {names.get(ours, ours): column for ours, column in mapping.items()}
        return f'dataset_info.json, {self.entry}: "columns": {json.dumps(columns)}'

    def eval_specs(self) -> dict[str, PreferenceData]:
        """Further evaluation sets are specs of their own."""
        specs = super().eval_specs()
        return {name: replace(spec, entry=None) for name, spec in specs.items()}  # type: ignore[call-arg]


@dataclass(frozen=True)
class LlamaFactoryData(PreferenceData):
    """One or several ranking datasets of a `dataset_info.json`.

    `path` is the folder that holds the file, `dataset` (or `name`) the entry, or a list of entries, which are
    joined. Format, columns and tags come from the entry; all other keys are those of `PreferenceData`.

    >>> LlamaFactoryData(path="data", dataset="dpo_en_demo").datasets
    ['dpo_en_demo']
    """

    dataset: str | list[str] | None = None

    def __post_init__(self) -> None:
        """Check that the entry is named and nothing is said twice."""
        super().__post_init__()
        if not self.datasets:
            raise ConfigError("data.dataset: name an entry of dataset_info.json, for example data.dataset=dpo_en_demo")
        if self.format != "auto" or self.columns or self.tags:
            raise ConfigError("data.format, data.columns and data.tags come from dataset_info.json; leave them out")
        if self.streaming and len(self.datasets) > 1:
            raise ConfigError(
                "data.streaming: the rows of several entries are held in memory; name one in data.dataset"
            )

    @property
    def datasets(self) -> list[str]:
        """The entries wanted."""
        given = self.dataset if self.dataset is not None else self.name
        names = given.split(",") if isinstance(given, str) else list(given or [])
        return [name.strip() for name in names if name.strip()]

    @property
    def source(self) -> str:
        """The name of the source."""
        return "+".join(self.datasets)

    def read(self, output_dir: Path | None = None) -> Splits:
        """Read the entries; see `PreferenceData.read`.

        Raises:
            DataError: no dataset_info.json, no such entry, or one that rmx cannot read.
        """
        from rmx.data.rows.asking import Keys, not_ignored

        folder, entries = self._entries("data")
        specs = {name: self._keys(folder, name, entries) for name in self.datasets}
        evals: dict[str, Any] = {
            name: self._keys(folder, given, entries) if isinstance(given, str) and given in entries else given
            for name, given in self.eval_sets.items()
        }
        if len(specs) == 1:
            (name,) = specs
            return _Entry(**{**specs[name], "eval_sets": evals, "entry": name}).read(output_dir)
        shared = {item.name: getattr(self, item.name) for item in fields(Mixture) if item.name in _SHARED}
        sources = {name: _Entry(**keys, entry=name) for name, keys in specs.items()}
        splits = Mixture(sources=sources, **{**shared, "eval_sets": evals}).read(output_dir)
        found = [column for account in splits.accounting.sources.values() for column in account.columns]
        mistake = not_ignored(Keys("data"), self.ignore, found)
        if mistake is not None:
            raise mistake
        return splits

    def part(self, name: str, key: str) -> LlamaFactoryData:
        """One entry as a source of a mixture; see `PreferenceData.part`."""
        if len(self.datasets) > 1:
            raise ConfigError(f"{key}.dataset: a source of a mixture is one entry; make a source of each")
        super().part(name, key)
        return replace(self, name=name, dataset=self.datasets, validation_fraction=0.0)

    def resolved(self, key: str) -> PreferenceData:
        """The entry's file, format and columns.

        Raises:
            DataError: as `read`.
        """
        folder, entries = self._entries(key)
        (entry,) = self.datasets
        return _Entry(**{**self._keys(folder, entry, entries, key), "name": self.name}, entry=entry)

    def _entries(self, key: str) -> tuple[Path, dict[str, Any]]:
        path = Path(self.paths[0]).expanduser()
        file = path if path.suffix == ".json" else path / "dataset_info.json"
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{key}.path: cannot read {file} ({error.strerror}); give the folder that holds it"
            ) from error
        except ValueError as error:
            raise DataError(f"{file}: is not JSON: {error}") from error
        if not isinstance(entries, dict):
            raise DataError(f"{file}: is not an object of named datasets")
        return file.parent, entries

    def _keys(self, folder: Path, name: str, entries: dict[str, Any], key: str = "data") -> dict[str, Any]:
        """The keys of `PreferenceData` that an entry means."""
        entry = entries.get(name)
        if not isinstance(entry, dict):
            ranking = [key for key, value in entries.items() if isinstance(value, dict) and value.get("ranking")]
            raise DataError(
                f"{key}.dataset: {name!r} is not in {folder / 'dataset_info.json'}; its ranking datasets: "
                f"{', '.join(ranking) or 'none'}"
            )
        if not entry.get("ranking"):
            raise DataError(f'{key}.dataset: {name!r} has no "ranking": true in dataset_info.json: it holds no pairs')
        formatting = entry.get("formatting", "alpaca")
        if formatting not in _PARTS:
            raise DataError(f"{key}.dataset: {name!r} has formatting {formatting!r}; known: {', '.join(_PARTS)}")
        given = entry.get("columns") or {}
        known = [*_PARTS[formatting], *_COMMON, *_NOT_READ]
        for theirs in given:
            if theirs not in known:
                hint = did_you_mean(theirs, known) or f"known: {', '.join(known)}"
                raise DataError(f"dataset_info.json, {name}: columns.{theirs}: no part of this name; {hint}")
        columns = {}
        for theirs, (ours, usual) in (_PARTS[formatting] | _COMMON).items():
            column = given.get(theirs, usual)
            if column is not None and column != ours:
                columns[ours] = column
        columns |= {theirs: given[theirs] for theirs in _MEDIA if given.get(theirs)}  # asked about where rows have them
        keys = {item.name: getattr(self, item.name) for item in fields(PreferenceData)}
        keys.update(name=name, format=formatting, columns=columns, tags=dict(entry.get("tags") or {}), eval_sets={})
        if entry.get("num_samples") and self.max_samples is None:
            keys["max_samples"] = int(entry["num_samples"])
        keys.update(_place(folder, name, entry, key))
        return keys


_SHARED = frozenset(
    [
        "validation_fraction",
        "validation_by",
        "on_bad_row",
        "max_bad_fraction",
        "on_overlap",
        "max_samples",
        "max_tokens",
        "truncation",
        "seed",
    ]
)


def _place(folder: Path, name: str, entry: dict[str, Any], key: str) -> dict[str, Any]:
    if "file_name" in entry:
        return {"path": str(folder / entry["file_name"])}
    if "hf_hub_url" in entry:
        return {
            "path": entry["hf_hub_url"],
            "config": entry.get("subset"),
            "split": entry.get("split", "train"),
        }
    raise DataError(
        f"{key}.dataset: {name!r} has neither file_name nor hf_hub_url; rmx runs no loading scripts and reads "
        "no other hubs: download the file and name it as file_name"
    )
