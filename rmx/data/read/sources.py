"""What `data.path` means: a file, a list of them, a glob, a folder, a clone of a hub repository, or a hub dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rmx.data.read import hub, read_rows, saved
from rmx.data.read.kinds import SUFFIXES, is_local, kind_of
from rmx.data.read.raw import RawRow
from rmx.data.read.splits import choose_files, data_files, split_of
from rmx.errors import DataError

__all__ = ["DataFile", "locate"]


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    path: Path
    place: str  # what messages call it
    name: str  # relative to its folder or repository; a split, when the path is a folder of saved datasets
    label: str = ""  # its part of the ids of its rows; empty when it is the only file

    def rows(self) -> Iterator[RawRow]:
        """Its rows, in order."""
        return saved.read_saved(self.path, self.name) if self.path.is_dir() else read_rows(self.path)


def locate(
    paths: Sequence[str], split: str | None, config: str | None, revision: str | None, notes: list[str]
) -> list[DataFile]:
    """The files behind some paths; `notes` gets what was chosen and not asked for, such as a split.

    Raises:
        DataError: nothing there, a kind of file that is not read, no such split, or a key that has nothing to act on.
    """
    found: list[DataFile] = []
    for path in paths:
        if is_local(path):
            if revision is not None:
                raise DataError(
                    f"data.revision: {revision!r} is for datasets of the hub, and {path} is local; leave it out"
                )
            found += _local(path, split, config, notes)
        else:
            folder, choice = hub.fetch(path, config, split, revision)
            notes += choice.notes
            found += [DataFile(folder / name, f"{path}/{name}", name) for name in choice.names]
    places = Counter((file.path.resolve(), file.name if file.path.is_dir() else "") for file in found)
    twice = next((path for (path, _), count in places.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"data.path: {twice} is named twice; its rows would be read twice")
    return _labelled(found)


def _labelled(files: list[DataFile]) -> list[DataFile]:
    """The files with labels of their own: their names, with as many folders before them as tells them apart."""
    if len(files) < 2:
        return files
    labels = [PurePosixPath(file.name).name for file in files]
    for names in ([file.name for file in files], [file.place for file in files]):
        count = Counter(labels)
        labels = [name if count[label] > 1 else label for label, name in zip(labels, names, strict=True)]
    return [DataFile(file.path, file.place, file.name, label) for file, label in zip(files, labels, strict=True)]


def _local(path: str, split: str | None, config: str | None, notes: list[str]) -> list[DataFile]:
    given = Path(path).expanduser()
    if given.is_dir():
        return _folder(given, path, split, config, notes)
    if config is not None:
        raise DataError(f"data.config: {config!r} is for folders and datasets of the hub, and {path} is neither; "
                        "leave it out (data.config=null)")  # fmt: skip
    if given.is_file():
        if kind_of(given) not in SUFFIXES:
            raise DataError(
                f"data.path: {path} is no {' '.join(SUFFIXES)} file (.gz and .zst are read too); rename or convert it"
            )
        _require_split_of(given.name, split, path)
        return [DataFile(given, str(given), given.name)]
    if not any(sign in path for sign in "*?["):
        raise DataError(f"data.path: {path} does not exist (looked in {Path.cwd()})")
    anchor = Path(given.anchor) if given.is_absolute() else Path()
    matches = anchor.glob(str(given.relative_to(anchor)))
    files = sorted(file for file in matches if file.is_file() and kind_of(file) in SUFFIXES)
    if not files:
        raise DataError(f"data.path: no data file matches {path}")
    root = Path(os.path.commonpath([file.parent for file in files])) if files[0].parent.parts else Path()
    names = [file.relative_to(root).as_posix() for file in files]
    if len({split_of(name) for name in names}) > 1:
        choice = choose_files(names, {}, split, None, path)
        names = choice.names
        notes += choice.notes
    elif split is not None:
        _require_split_of(names[0], split, path)
    return [DataFile(root / name, str(root / name), name) for name in names]


def _require_split_of(name: str, split: str | None, path: str) -> None:
    """Refuse a split that files named one by one do not have; whole files are a split `train`."""
    if split not in {None, "train", split_of(name), name.split(".")[0]}:
        raise DataError(f"data.split: {split!r} asked for, but {path} has no splits; leave it out (data.split=null)")


def _folder(folder: Path, path: str, split: str | None, config: str | None, notes: list[str]) -> list[DataFile]:
    if saved.is_saved(folder):
        if config is not None:
            raise DataError(f"data.config: {path} was written by save_to_disk and has no configurations; leave it out")
        choice = saved.choose_saved(folder, split)
        notes += choice.notes
        return [DataFile(folder, path if name == "." else f"{path} split {name}", name) for name in choice.names]
    card = hub.read_card(folder)
    clone = bool(card) or (folder / ".gitattributes").is_file()
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    below = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))
    )
    if clone or config is not None or not data_files(names):
        names = [
            (Path(parent) / file).relative_to(folder).as_posix()
            for parent, _, files in os.walk(folder)
            for file in files
        ]
    else:
        left = [name for name in below if data_files([entry.name for entry in (folder / name).iterdir()])]
        if left:
            notes.append(f"sub-folders of {path} not read: {', '.join(left)} (give them in data.path)")
    choice = choose_files(names, card, split, config, path)
    notes += choice.notes
    return [DataFile(folder / name, str(folder / name), name) for name in choice.names]
