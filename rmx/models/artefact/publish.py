"""Publishing an artefact: one commit with the files of model/, nothing else from the run."""

from __future__ import annotations

import logging
from pathlib import Path

from rmx.errors import ModelError, first_line
from rmx.models.resolve import transport_error
from rmx.models.stored import BASE
from rmx.models.tensor_files import json_object

__all__ = ["push"]

log = logging.getLogger(__name__)

# An artefact consists of these; a training_args.bin or an optimizer that lies beside stays at home.
PUBLISHED = ["*.json", "*.safetensors", "*.md", "*.jinja", "*.model", "*.txt", "*.tiktoken"]


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload reward model",
) -> str:
    """Create the repository where it does not exist, upload the artefact in one commit, return the commit's URL.

    Args:
        token: Access token; None takes HF_TOKEN or the one that `hf auth login` saved.
        revision: Branch; None is main.

    Raises:
        ModelError: The folder is no artefact, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, constants, errors

    folder = Path(folder)
    _check_publishable(folder)
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=PUBLISHED,
        )
    except errors.LocalTokenNotFoundError:
        why = "there is no access token; run `hf auth login` or set HF_TOKEN"
    except errors.HFValidationError as error:
        why = f"{repo_id!r} is no repository id ({first_line(error)}); give user/name"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        hint = "; the token may not write there" if status in (401, 403) else ""
        why = f"the hub answered {status}{hint}: {first_line(error)}"
    except (transport_error(), OSError, RuntimeError) as error:  # RuntimeError: an upload failed half-way
        why = f"the upload to {constants.ENDPOINT} failed: {type(error).__name__}: {first_line(error)}"
    else:
        log.info("published %s", commit.commit_url)
        return str(commit.commit_url)
    raise ModelError(f"push to {repo_id}: {why}; the artefact is complete in {folder}") from None


def _check_publishable(folder: Path) -> None:
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise ModelError(f"push: {folder} is no artefact: it has neither config.json nor adapter_config.json")
    if (folder / "adapter_config.json").exists():
        base = str(json_object(folder / "adapter_config.json").get("base_model_name_or_path") or "")
        if (folder / BASE).exists() or Path(base).is_absolute():
            raise ModelError(
                f"push: the base of the adapter {folder} is on this machine only ({base}); publish the merged model: "
                "peft.merge=true writes model-merged/"
            )
