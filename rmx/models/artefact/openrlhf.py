"""OpenRLHF's layout: a whole model, its linear head named by `value_head_prefix` in config.json, no bias.

Its loader (openrlhf/models/model.py of 0.11, August 2026) builds `<Arch>PreTrainedModel` with the backbone under its
own prefix and `Linear(hidden_size, 1, bias=False)` under `value_head_prefix`, which the config decides before the
flag. It reads the reward at the last attended token, so encoders do not fit. `mean` and `std` in config.json are used
only with its reward normalisation switched on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file, save_file

from rmx.errors import ConfigError, ModelError
from rmx.files import write_text
from rmx.models.artefact.calibrated import CALIBRATION
from rmx.models.artefact.export import export_merged, new_export
from rmx.models.artefact.save import read_artefact
from rmx.models.tensor_files import json_object, tensors

__all__ = ["export_openrlhf"]

HEAD = "score"  # as transformers names it, and OpenRLHF since 0.5


def export_openrlhf(folder: str | Path, out: str | Path, *, value_head_prefix: str = HEAD) -> Path:
    """Write a model that OpenRLHF's `get_llm_for_sequence_regression` loads, the adapter merged.

    Args:
        value_head_prefix: name of the head. With `score` the folder is a transformers model as well; older versions of
            OpenRLHF want `value_head`.

    Raises:
        ConfigError: the name is no Python name.
        ModelError: The folder is no artefact, or an encoder.
        OutputError: `out` exists and is not empty.
    """
    if re.fullmatch(r"[A-Za-z_]\w*", value_head_prefix) is None:
        raise ConfigError(f"--value-head-prefix: {value_head_prefix!r} cannot name a module; write a Python name")
    artefact = read_artefact(folder)
    if artefact.loaded.is_encoder:
        raise ModelError(f"{folder} is an encoder: OpenRLHF reads the reward at the last token of a decoder")
    scale = _scale(artefact.folder)
    with new_export(out) as made:
        export_merged(folder, made)
        if value_head_prefix != HEAD:
            _rename_head(made, value_head_prefix)
        config = json_object(made / "config.json") | scale | {"value_head_prefix": value_head_prefix}
        write_text(made / "config.json", json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return Path(out)


def _scale(folder: Path) -> dict[str, float]:
    """A stored calibration under the names that OpenRLHF reads."""
    config = json_object(folder / "config.json") if (folder / "config.json").exists() else {}
    found = config.get(CALIBRATION)
    return {} if found is None else {"mean": found["mean"], "std": found["scale"]}


def _rename_head(folder: Path, name: str) -> None:
    file = tensors(folder)[f"{HEAD}.weight"].file
    stored = load_file(file)
    stored[f"{name}.weight"] = stored.pop(f"{HEAD}.weight")
    save_file(stored, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json_object(index)
        content["weight_map"][f"{name}.weight"] = content["weight_map"].pop(f"{HEAD}.weight")
        write_text(index, json.dumps(content, indent=2) + "\n")
