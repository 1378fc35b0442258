"""A model with its backbone in 8 bits (LLM.int8, Dettmers et al. 2022, arXiv 2208.07339), the head in float32.

Plain transformers loads it with bitsandbytes installed, on a CPU too: config.json says how. How much accuracy it
costs is measured by whoever exports it (`rmx export` does, on held-out pairs).
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rmx.errors import ModelError
from rmx.files import write_text
from rmx.models.artefact.export import export_merged, new_export
from rmx.models.artefact.save import CONTRACT
from rmx.models.quantization import Quantization
from rmx.models.quiet import quiet
from rmx.models.tensor_files import json_object

__all__ = ["export_int8"]


def export_int8(folder: str | Path, out: str | Path, *, device: str | None = None) -> Path:
    """Write the model, an adapter merged, with int8 weights in the backbone's linear layers.

    Args:
        device: where to quantise, such as "cuda:0"; None is the CPU.

    Raises:
        ModelError: The folder is no artefact, or bitsandbytes is not installed.
        OutputError: `out` exists and is not empty.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError("--format int8 needs bitsandbytes; pip install 'rmx[quantization]'")
    out = Path(out)
    with new_export(out) as made, TemporaryDirectory(dir=out.parent) as staging, quiet():
        merged = export_merged(folder, Path(staging) / "merged")
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            merged,
            num_labels=1,
            dtype=torch.float32,
            quantization_config=Quantization("8bit").config(),
            device_map={"": device or "cpu"},
        )
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(merged).save_pretrained(made)
        contract = json_object(merged / CONTRACT) if (merged / CONTRACT).exists() else {}
        if contract:
            contract["model"] = {**contract.get("model", {}), "dtype": "int8"}
            write_text(made / CONTRACT, json.dumps(contract, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        if (merged / "README.md").exists():
            write_text(made / "README.md", (merged / "README.md").read_text(encoding="utf-8"))
    return out
