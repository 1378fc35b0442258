"""`rmx export FOLDER --format FORMAT OUT`: a finished reward model as another program reads it."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmx.cli.words import mapping_of, names_of
from rmx.errors import ConfigError, DataError, ModelError, counted

if TYPE_CHECKING:
    from rmx.data import PreferenceData
    from rmx.models.artefact.calibrated import Calibration

__all__ = ["main"]

_FORMATS = {
    "merged": "<Arch>ForSequenceClassification, an adapter merged in: TRL, vLLM, RewardBench, transformers",
    "llamafactory": "a causal model and value_head.safetensors: LLaMA-Factory's PPO",
    "openrlhf": "merged, the head named by value_head_prefix: OpenRLHF",
    "calibrated": "merged, with the scale of its rewards, for rmx.load(..., calibrated=True)",
    "int8": "merged, the backbone in 8 bits (bitsandbytes); prints what it costs on --rows",
}
_NOT_WRITTEN = {
    "gguf": "llama.cpp's converter knows classification heads of encoders only (BERT, RoBERTa, ModernBERT and kin: "
    "give it the folder that --format merged writes); no decoder's ...ForSequenceClassification is in its table and "
    "none of its tensors is a `score`, so a decoder would come out as a language model without its reward. Serve the "
    "merged model with vLLM (classify), or make it smaller with --format int8",
    "onnx": "optimum-onnx 0.1, which makes such graphs, needs transformers below 4.58, and this is transformers 5. "
    "Where ONNX is a must, run optimum-cli in an environment of its own on the folder that --format merged writes, "
    "and compare its scores with rmx.load",
}
_FLAGS = {
    "rows": ("calibrated", "int8"),
    "columns": ("calibrated", "int8"),
    "ignore": ("calibrated", "int8"),
    "scale": ("calibrated",),
    "value_head_prefix": ("openrlhf",),
}


def main(argv: Sequence[str]) -> int:
    """Write the export and say where it is, and what was measured on the way.

    Raises:
        ConfigError: a flag does not belong to the format, or one is missing.
        RmxError: the model, the rows or the output folder cannot be used.
    """
    given = _parser().parse_args(argv)
    _check(given)
    if given.format == "calibrated":
        _calibrated(given)
    elif given.format == "int8":
        _int8(given)
    elif given.format == "openrlhf":
        from rmx.models.artefact.openrlhf import export_openrlhf

        export_openrlhf(given.folder, given.out, value_head_prefix=given.value_head_prefix or "score")
    else:
        from rmx.models import export_merged, export_value_head

        (export_value_head if given.format == "llamafactory" else export_merged)(given.folder, given.out)
    sys.stdout.write(f"{given.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    described = "\n".join(f"  {name:14}{meaning}" for name, meaning in _FORMATS.items())
    refused = "\n".join(
        textwrap.fill(f"{name:14}{why}", 100, initial_indent="  ", subsequent_indent=" " * 16)
        for name, why in _NOT_WRITTEN.items()
    )
    parser = argparse.ArgumentParser(
        prog="rmx export",
        description=f"Write a reward model as another program reads it.\n\nformats:\n{described}\n\n"
        f"not written, and why:\n{refused}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a finished run, its model/ folder, or any reward model")
    parser.add_argument("--format", choices=[*_FORMATS, *_NOT_WRITTEN], required=True, metavar="FORMAT")
    parser.add_argument("out", metavar="OUT", help="the folder to write; it must not exist or be empty")
    parser.add_argument(
        "--rows", metavar="ROWS", help="held-out pairs; for calibrated, by default the run's own predictions"
    )
    parser.add_argument(
        "--columns",
        metavar="{OURS: THEIRS}",
        type=mapping_of,
        help="of --rows: rmx's column name → the file's, such as '{chosen: better, rejected: worse}'",
    )
    parser.add_argument(
        "--ignore", metavar="[COLUMN]", type=names_of, help="of --rows: columns of text that are left out on purpose"
    )
    parser.add_argument(
        "--scale",
        choices=["std", "temperature"],
        help="of calibrated: the standard deviation of rewards (default), or the temperature that fits the pairs",
    )
    parser.add_argument("--value-head-prefix", metavar="NAME", help="of openrlhf: name of the head (default: score)")
    return parser


def _check(given: argparse.Namespace) -> None:
    if given.format in _NOT_WRITTEN:
        raise ModelError(f"--format {given.format} is not written: {_NOT_WRITTEN[given.format]}")
    for name, formats in _FLAGS.items():
        if getattr(given, name) is not None and given.format not in formats:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is for --format {' and '.join(formats)}, not for {given.format}; leave it out")
        if name in ("columns", "ignore") and getattr(given, name) is not None and given.rows is None:
            raise ConfigError(f"--{name} is for the columns of --rows; give --rows, or leave it out")
    if given.format == "int8" and given.rows is None:
        raise ConfigError("--rows is needed: --format int8 prints the accuracy that 8 bits cost on held-out pairs")


# --- Measured on held-out pairs ---


def _calibrated(given: argparse.Namespace) -> None:
    from rmx.models import export_merged
    from rmx.models.artefact.calibrated import CALIBRATION, store_calibration
    from rmx.models.artefact.export import new_export

    scale = _scale(given)
    with new_export(given.out) as made:
        store_calibration(export_merged(given.folder, made), scale)
    sys.stdout.write(
        f"{CALIBRATION}: (reward - {scale.mean:.6g}) / {scale.scale:.6g}, {scale.method}, from "
        f"{counted(scale.pairs, 'pair')} of {scale.measured_on}; applied by "
        "rmx.load(..., calibrated=True) and rmx score calibrated=true\n"
    )


def _scale(given: argparse.Namespace) -> Calibration:
    import numpy as np

    from rmx.scoring.heldout import fit_scale, score_heldout

    if given.rows is not None:
        from rmx.scoring.scorer import load

        scored = score_heldout(load(given.folder), _rows(given))
        chosen, rejected, tie, weight = scored.chosen_M, scored.rejected_M, scored.tie_M, scored.weight_M
        name = Path(given.rows).name
    else:
        sets = _predictions(given.folder)
        chosen, rejected, tie, weight = (
            np.concatenate([getattr(found, column) for found in sets.values()])
            for column in ("chosen", "rejected", "tie", "weight")
        )
        name = ", ".join(sets)
    return fit_scale(chosen, rejected, tie=tie, weight=weight, method=given.scale or "std", measured_on=name)


def _rows(given: argparse.Namespace) -> PreferenceData:
    """The rows of --rows, read as --columns and --ignore say."""
    from rmx.scoring.heldout import heldout_rows

    columns, ignore = given.columns, given.ignore
    return heldout_rows(given.rows, columns=columns or {}, ignore=ignore or [])


def _predictions(folder: str) -> dict:
    from rmx.results import read_run

    run = Path(folder)
    run = run.parent if run.name in {"model", "model-merged"} else run
    try:
        sets = read_run(run).predictions
    except DataError:
        sets = {}
    if not any(len(found.ids) for found in sets.values()):
        raise ConfigError(f"--rows is needed: {folder} is no run with predictions to measure the scale of rewards on")
    return sets


def _int8(given: argparse.Namespace) -> None:
    from rmx.metrics.comparing import paired_comparison
    from rmx.models.artefact.export import new_export
    from rmx.models.artefact.int8 import export_int8
    from rmx.scoring.heldout import score_heldout
    from rmx.scoring.scorer import load

    before = score_heldout(load(given.folder), _rows(given))
    with new_export(given.out) as made:  # what cannot be measured is not left behind as if it had been
        after = score_heldout(load(export_int8(given.folder, made)), _rows(given))
    decided = ~before.tie_M
    found = paired_comparison(
        (before.chosen_M - before.rejected_M)[decided],
        (after.chosen_M - after.rejected_M)[decided],
        weight=before.weight_M[decided],
        comparison=before.comparison_M[decided],
    )
    moved = max(abs(after.chosen_M - before.chosen_M).max(), abs(after.rejected_M - before.rejected_M).max())
    sys.stdout.write(
        f"accuracy on {counted(int(found['pairs']), 'pair')} of {Path(given.rows).name}: {found['first_accuracy']:.4f} "
        f"before, {found['second_accuracy']:.4f} in 8 bits ({found['difference']:+.4f}, 95 % interval "
        f"{found['difference_low']:+.4f} to {found['difference_high']:+.4f}; "
        f"{counted(int(found['first_only']), 'pair')} lost, {int(found['second_only'])} won)\n"
        f"largest change of a reward {moved:.4f}; weights "
        f"{_megabytes(Path(given.out)):,.1f} MB\n"
    )


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
