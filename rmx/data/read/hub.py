"""Datasets of the Hugging Face hub: the files of one split, fetched by `huggingface_hub`.

It alone knows the network: it finds the hub (HF_ENDPOINT), the proxy (HTTPS_PROXY) and the token (HF_TOKEN or
`hf auth login`), continues a download that broke off, and takes its cache when there is no network or HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from rmx.data.read.splits import Choice, choose_files
from rmx.errors import DataError

__all__ = ["fetch", "read_card"]


def fetch(repo: str, config: str | None, split: str | None, revision: str | None) -> tuple[Path, Choice]:
    """The folder of a dataset in the hub's cache, and its files of one split, which are downloaded where needed.

    Raises:
        DataError: no such dataset, configuration, split or revision, no access, or neither network nor a cached copy.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HTTPError

    def download(revision: str | None, patterns: list[str]) -> Path:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))

    folder = None
    try:
        folder = download(revision, ["README.md"])
        try:
            names = [file.path for file in get_cached_repo_tree(repo, repo_type="dataset", revision=folder.name)]
        except CachedRepoTreeNotFoundError:  # put into the cache by another version of the library
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        choice = choose_files(names, read_card(folder), split, config, repo)
        download(folder.name, [glob.escape(name) for name in choice.names])
    except DataError as error:
        raise DataError(f"{error}{_script_hint(names, repo)}") from None
    except (OSError, ValueError, HTTPError) as error:
        raise DataError(_explained(error, repo, revision, folder is not None)) from error
    return folder, choice


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's README.md; {} for none.

    Raises:
        DataError: it is not YAML.
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    card = folder / "README.md"
    if not card.is_file():
        return {}
    try:
        return metadata_load(card) or {}
    except (YAMLError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{card}: its front matter cannot be read ({type(error).__name__})") from error


def _script_hint(names: list[str], repo: str) -> str:
    if f"{repo.split('/')[-1]}.py" not in names:
        return ""
    return (
        ". Its rows are made by a script, which rmx does not run; the hub may have converted them: "
        "data.revision=refs/convert/parquet"
    )


def _explained(error: Exception, repo: str, revision: str | None, in_part: bool) -> str:
    """What a failure of the hub's library means, and what to do."""
    from huggingface_hub import errors

    what = f"data.path: {repo} is no file here, and as a dataset of the hub "
    if isinstance(error, errors.GatedRepoError):
        return f"{what}it is gated: ask for access on its page, and log in (hf auth login, or HF_TOKEN)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{what}it does not exist, or is private: check the name, and log in (hf auth login, or HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"data.revision: {revision!r} is not a branch, tag or commit of {repo}"
    if isinstance(error, errors.HFValidationError):
        return f"{what}its name is not valid; give an existing file or folder, or ORGANISATION/NAME"
    if isinstance(error, errors.IncompleteSnapshotError) or (in_part and isinstance(error, FileNotFoundError)):
        return (
            f"{what}its copy in the cache is not whole, and the hub cannot be reached ({_cause(error)}). Run the same "
            f"command once where there is a network, or: hf download --repo-type dataset {repo}"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{what}it cannot be loaded: no network ({_cause(error)}) and no copy in the cache. Give a local file or "
            f"folder, or fetch it once where there is a network: hf download --repo-type dataset {repo}"
        )
    return f"{what}it cannot be fetched ({_cause(error)}); the same command continues the download"


def _cause(error: BaseException) -> str:
    """One line that says why, from the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    if name == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    return f"{name}, status {status}" if status else f"{name}: {str(error).splitlines()[0][:120] if str(error) else ''}"
