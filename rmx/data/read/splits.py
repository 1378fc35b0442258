"""Which files of a folder or hub repository are the rows asked for: its configurations and splits, by their names.

The conventions are the hub's (https://huggingface.co/docs/hub/datasets-data-files-configuration):

| says the split | example |
|---|---|
| `configs:` in the front matter of README.md | `data_files: [{split: train, path: data/train-*}]` |
| the name of a shard | data/train_prefs-00000-of-00002.parquet → train_prefs |
| a folder's name | test/a.jsonl → test |
| a word in a file's name: train, validation (valid, dev, val), test (eval) | pairs_dev.jsonl → validation |

Files without any are the split `train`, unless there are others that say `train`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rmx.data.read.kinds import SUFFIXES, kind_of
from rmx.errors import DataError

__all__ = ["Choice", "choose_files", "choose_split", "data_files", "split_of"]

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_WORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?=[-._ 0-9])", re.IGNORECASE)
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-(?P<number>\d{5})-of-(?P<count>\d{5})")
# Files that describe data, a model or a project and hold no rows.
_ABOUT = frozenset(
    (
        *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"),
        *("config.json", "metadata.json", "codemeta.json", "manifest.json", "tsconfig.json"),
        *("package.json", "package-lock.json", "composer.json"),
    )
)
_READING_KEYS = frozenset(
    ("sep", "delimiter", "field", "names", "column_names", "skiprows", "header", "quotechar", "encoding")
)


@dataclass
class Choice:
    """The files to read, and what was decided on the way to them."""

    names: list[str]
    notes: list[str] = field(default_factory=list)


def data_files(names: Sequence[str]) -> list[str]:
    """Those names, relative to their folder, that hold rows: no hidden files, no metadata, no other kinds.

    >>> data_files(["README.md", "data/b.parquet", "a.jsonl.gz", "dataset_info.json", ".cache/c.json"])
    ['a.jsonl.gz', 'data/b.parquet']
    """

    def has_rows(name: str) -> bool:
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__")) for part in parts)
        return not hidden and parts[-1] not in _ABOUT and kind_of(Path(name)) in SUFFIXES

    return sorted(filter(has_rows, names))


def split_of(name: str) -> str | None:
    """The split that a file's name says, or None.

    >>> split_of("data/test_prefs-00000-of-00001.parquet"), split_of("pairs_dev.jsonl"), split_of("latest.jsonl")
    ('test_prefs', 'validation', None)
    """
    *folders, file = PurePosixPath(name).parts
    shard = _SHARD.match(file)
    if shard:
        return shard["split"]
    for part in [*(f"{folder}." for folder in reversed(folders)), file]:
        found = _WORD.search(part)
        if found:
            return _WORDS[found[1].lower()]
    return None


def choose_files(
    names: Sequence[str], card: Mapping[str, Any], split: str | None, config: str | None, place: str
) -> Choice:
    """The data files of one configuration and split.

    Args:
        names: all files, relative to the folder.
        card: the front matter of its README.md, {} for none.
        split: the split wanted; None takes `train`, or the only one that is not for tests.
        config: the configuration wanted; None takes the only one, or the default.
        place: the folder or repository, for messages.

    >>> choose_files(["train.jsonl", "test.jsonl"], {}, None, None, "pairs")
    Choice(names=['train.jsonl'], notes=['split train of pairs; not read: test (data.split chooses)'])

    Raises:
        DataError: no such configuration or split, one has to be named, or files are missing.
    """
    found = data_files(names)
    entries = _entries(card)
    if entries:
        by_split = _declared(found, _entry(entries, config, place), place)
    else:
        if config is not None:
            found = _inside(found, config, place)
        if not found:
            raise DataError(
                f"data.path: {place} holds no {' '.join(SUFFIXES)} file with rows (.gz and .zst are read too)"
            )
        by_split = _by_name(found)
    choice = choose_split(by_split, split, place)
    _require_all_shards(choice.names, place)
    return choice


# --- Configurations ---


def _entries(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    configs = card.get("configs")
    if not isinstance(configs, list):
        return {}
    named = (entry for entry in configs if isinstance(entry, Mapping))
    return {str(entry.get("config_name", "default")): entry for entry in named}


def _entry(entries: Mapping[str, Mapping[str, Any]], config: str | None, place: str) -> Mapping[str, Any]:
    known = ", ".join(entries)
    if config is not None:
        if config not in entries:
            raise DataError(f"data.config: {config!r} is not a configuration of {place}; it has: {known}")
        name = config
    elif len(entries) == 1:
        name = next(iter(entries))
    else:
        marked = [name for name, entry in entries.items() if entry.get("default")]
        name = marked[0] if marked else "default"
        if name not in entries:
            raise DataError(f"data.config: {place} has several configurations, name one of: {known}")
    odd = sorted(_READING_KEYS & entries[name].keys())
    if odd:
        raise DataError(
            f"data.config: {name!r} of {place} sets {odd[0]}={entries[name][odd[0]]!r} for reading its files, which "
            "rmx does not do; download them, convert them to JSON lines, and give data.path=FILE"
        )
    return entries[name]


def _declared(names: Sequence[str], entry: Mapping[str, Any], place: str) -> dict[str | None, list[str]]:
    """Split → files as the front matter says."""
    base = str(entry.get("data_dir") or "").strip("./")
    given = entry.get("data_files")
    if given is None:
        return _by_name(_inside(names, base, place) if base else names)
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        given = {"train": given}
    if isinstance(given, list):
        given = {item.get("split", "train"): item.get("path", []) for item in given if isinstance(item, Mapping)}
    from fsspec.utils import glob_translate  # takes longer to import than all of a configuration to check

    out: dict[str | None, list[str]] = {}
    for split, patterns in given.items():
        patterns = [patterns] if isinstance(patterns, str) else patterns
        files: list[str] = []
        for pattern in patterns:
            full = f"{base}/{pattern}" if base else str(pattern)
            fits = re.compile(glob_translate(full.removeprefix("./"))).match
            files += [name for name in names if fits(name) and name not in files]
        if not files:
            raise DataError(f"{place}: its README.md names {', '.join(map(str, patterns))} for the split {split}, and "
                            "there is no such data file")  # fmt: skip
        out[str(split)] = files
    return out


def _inside(names: Sequence[str], folder: str, place: str) -> list[str]:
    """The files of one sub-folder, as configuration."""
    found = [name for name in names if name.startswith(f"{folder}/")]
    if not found:
        folders = sorted({name.split("/")[0] for name in names if "/" in name})
        has = f"its sub-folders with data are: {', '.join(folders)}" if folders else "leave data.config out"
        raise DataError(f"data.config: {folder!r} is not a configuration of {place}, which declares none; {has}")
    return found


# --- Splits ---


def _by_name(names: Sequence[str]) -> dict[str | None, list[str]]:
    out: dict[str | None, list[str]] = {}
    for name in names:
        out.setdefault(split_of(name), []).append(name)
    if set(out) != {None} and None in out and "train" not in out and all(map(_for_tests, filter(None, out))):
        out["train"] = out.pop(None)
    return out


def _for_tests(split: str) -> bool:
    found = _WORD.search(f"{split}.".replace("_", "-"))
    return found is not None and _WORDS[found[1].lower()] != "train"


def choose_split(by_split: Mapping[str | None, list[str]], split: str | None, place: str) -> Choice:
    """The files of the split wanted (`a+b` joins two), from split → files; None are files without a split.

    Raises:
        DataError: no such split, or one has to be named.
    """
    named = {name: files for name, files in by_split.items() if name is not None}
    plain = by_split.get(None, [])
    known = ", ".join(named)
    only = next(iter(named)) if len(named) == 1 and not plain else None
    if not named:
        if split not in {None, "train"}:
            raise DataError(
                f"data.split: {split!r} asked for, but {place} has no splits; leave it out (data.split=null)"
            )
        return Choice(plain)
    if split is None or (split == "train" and "train" not in named and only and not _for_tests(only)):
        split = "train" if "train" in named else only
        if split is None or (_for_tests(split) and len(named) == 1):
            raise DataError(f"data.split: {place} has no split train; name one of: {known}")
    wanted = [part.strip() for part in split.split("+")]
    files: list[str] = []
    for part in wanted:
        stems = [name for some in (plain, *named.values()) for name in some if _stem(name) == part]
        if part not in named and not stems:
            part_of = "; for a part of a split give data.max_samples" if "[" in part else ""
            raise DataError(f"data.split: {part!r} is not a split of {place}; it has: {known}{part_of}")
        files += [name for name in named.get(part) or stems if name not in files]
    left = [name for name in named if name not in wanted and not set(named[name]) <= set(files)]
    left += [name for name in plain if name not in files]
    return Choice(files, [f"split {split} of {place}; not read: {_few(left)} (data.split chooses)"] if left else [])


def _stem(name: str) -> str:
    return PurePosixPath(name).name.split(".")[0]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _require_all_shards(names: Sequence[str], place: str) -> None:
    """Refuse a split of which some shards are missing, as after a download that broke off."""
    sets: dict[str, set[int]] = {}
    for name in names:
        shard = _SHARD.match(PurePosixPath(name).name)
        if shard:
            whole = f"{PurePosixPath(name).parent}/{shard['split']}-*-of-{shard['count']}".removeprefix("./")
            sets.setdefault(whole, set()).add(int(shard["number"]))
    for whole, numbers in sets.items():
        count = int(whole.rsplit("-", 1)[1])
        if len(numbers) < count:
            first = min(set(range(count)) - numbers, default=0)
            raise DataError(
                f"{place}: of {whole} only {len(numbers)} of {count} files are there (missing: number {first:05d}); "
                "fetch the rest, or name the files to read in data.path"
            )
