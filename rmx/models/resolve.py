"""From `model.path` to a local folder, and one clear message where that is not possible."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from rmx.errors import ModelError, first_line

__all__ = ["Resolved", "resolve", "transport_error", "trust_remote_code"]

# What a model is read from. No .bin, .pt, .ckpt or .pkl: unpickling runs code that the file chooses.
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
SLOW_HUB_SECONDS = 10


class Resolved(NamedTuple):
    """Local files of a model: the folder, the name to remember it by, and the commit of a hub id."""

    folder: Path
    path: str  # hub id, or the absolute folder
    revision: str | None


def trust_remote_code() -> bool:
    """Whether code that a checkpoint brings may run: only after the command-line flag, which sets this variable."""
    return os.environ.get("RMX_TRUST_REMOTE_CODE") == "1"


def resolve(path: str, revision: str | None = None, key: str = "model.path", weights: bool = True) -> Resolved:
    """Find a local folder, or download a hub id's safetensors, configs and tokenizer into the hub's cache.

    Args:
        key: The config key to name in messages.
        weights: False when only a tokenizer is wanted.

    Raises:
        ModelError: There is no such folder or id, no permission, or no network; the message says which.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if revision:
            raise ModelError(f"model.revision: {revision!r} has no meaning for the local folder {path}; drop it")
        if weights:
            _check_folder(folder, key)
        return Resolved(folder.resolve(), str(folder.resolve()), None)
    if folder.is_file():
        raise ModelError(f"{key}: {path} is a file; give the folder that holds config.json and *.safetensors")
    if not _is_hub_id(path):
        raise ModelError(f"{key}: there is no folder {path} (working folder: {Path.cwd()})")
    snapshot = _download(path, revision, key, weights)
    if weights:
        _check_folder(snapshot, key, shown=path)
    return Resolved(snapshot, path, snapshot.name)


def _is_hub_id(path: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if path.startswith((".", "/", "~")) or path.endswith("/") or "\\" in path:
        return False
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _download(path: str, revision: str | None, key: str, weights: bool) -> Path:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    transport = transport_error()
    local = "or give a local folder"
    patterns = PATTERNS if weights else [name for name in PATTERNS if name != "*.safetensors"]
    try:
        if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
            try:  # a commit never changes: what is in the cache needs no network
                return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, local_files_only=True))
            except errors.LocalEntryNotFoundError:
                pass
        commit, reached = revision, False
        if not constants.is_offline_mode():
            try:  # asked for here, because snapshot_download asks without a time limit
                commit, reached = HfApi().repo_info(path, revision=revision, timeout=SLOW_HUB_SECONDS).sha, True
            except transport as error:
                if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
                    raise
        return Path(snapshot_download(path, revision=commit, allow_patterns=patterns, local_files_only=not reached))
    except errors.GatedRepoError:
        why = (
            f"is gated: accept its licence at https://huggingface.co/{path}, then log in with `hf auth login` "
            f"(or set HF_TOKEN), {local}"
        )
    except errors.RevisionNotFoundError:
        why = f"has no revision {revision!r}; check model.revision"
    except errors.RepositoryNotFoundError:
        why = (
            f"is neither a folder here (working folder: {Path.cwd()}) nor a model on the hub that you may read; "
            f"check the spelling, log in with `hf auth login` where it is private, {local}"
        )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        command = f"`hf download {path}`"
        if constants.is_offline_mode():
            why = (
                f"is no folder here (working folder: {Path.cwd()}), it is not in the local cache, and HF_HUB_OFFLINE "
                f"is set; unset it, run {command} first, {local}"
            )
        else:
            why = (
                f"is no folder here, it is not in the local cache and the hub cannot be reached; run {command} where "
                f"there is a network, {local}, or use model=tiny, which needs none"
            )
    except (transport, OSError) as error:
        why = f"cannot be downloaded: {type(error).__name__}: {first_line(error)}; try again, {local}"
    raise ModelError(f"{key}: {path} {why}") from None


def transport_error() -> type[Exception]:
    """The base of what the hub's HTTP client raises; which client that is depends on huggingface_hub's version."""
    from importlib import import_module

    from huggingface_hub import get_session

    return import_module(type(get_session()).__module__.split(".")[0]).HTTPError


def _check_folder(folder: Path, key: str, shown: str | None = None) -> None:
    names = {entry.name for entry in folder.iterdir()}
    shown = shown or str(folder)
    if not names & {"config.json", "adapter_config.json"}:
        hint = "; its model/ is one" if (folder / "model" / "config.json").exists() else ""
        hint = "; its model/ is one" if (folder / "model" / "adapter_config.json").exists() else hint
        raise ModelError(f"{key}: {shown} is no model folder: it has neither config.json nor adapter_config.json{hint}")
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
        found = f" (only {', '.join(pickles[:3])})" if pickles else ""
        raise ModelError(
            f"{key}: {shown} has no *.safetensors{found}; pickled weights are not loaded, because opening them "
            "runs code: convert the model with save_pretrained, or choose a revision with safetensors"
        )
