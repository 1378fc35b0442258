"""Results of benchmarks in a model card: the `model-index` of its front matter, which the hub shows with the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmx.errors import ModelError, first_line
from rmx.files import write_text
from rmx.models.artefact.save import CARD, CONTRACT

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["add_results", "card_of", "is_ours"]


def card_of(model: str) -> Path | None:
    """The card of a local model folder, or of a run's; None where there is none, as for an id of the hub."""
    folder = Path(model).expanduser()
    return next((path for path in (folder / CARD, folder / "model" / CARD) if path.is_file()), None)


def is_ours(card: Path) -> bool:
    """Whether rmx wrote the folder in which a card lies: its contract is there."""
    return (card.parent / CONTRACT).is_file()


def add_results(card: Path, results: Sequence[EvalResult]) -> None:
    """Write results into a card's `model-index`; earlier ones of the same task and dataset are replaced.

    Nothing else of the card changes, but for the order of keys and the quotes that YAML does not need.

    Raises:
        ModelError: the card's front matter cannot be read.
        OutputError: the card cannot be written.
    """
    import yaml
    from huggingface_hub import ModelCard, ModelCardData

    try:
        content = ModelCard(card.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{card}: the front matter cannot be read: {first_line(error)}") from None
    new = {_measured_on(result) for result in results}
    data = content.data
    assert isinstance(data, ModelCardData)
    data.eval_results = [*(one for one in data.eval_results or () if _measured_on(one) not in new), *results]
    data.model_name = data.model_name or card.parent.name
    write_text(card, str(content).rstrip("\n") + "\n")


def _measured_on(result: EvalResult) -> tuple[str, str, str]:
    return result.task_type, result.dataset_type, result.dataset_name
