"""One real run that has as much as fits into it: several sources and evaluation sets, an adapter, a bad row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workflows import make_workflow

from rmx.data import Mixture, SyntheticData
from rmx.models import Adapter, RewardModelSource


def run_everything(folder: Path) -> Path:
    """Do all phases in `folder`/run and return it.

    The set `hard` has a row whose response is empty, which is left out; without known true rewards, so that the
    set `eval` alone has a ceiling.
    """
    rows: list[dict[str, Any]] = [
        {"prompt": f"What is {n} + 1?", "chosen": f"{n + 1}", "rejected": "No."} for n in range(8)
    ]
    (folder / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "chosen": ""}]))
    data = Mixture(
        sources={name: SyntheticData(size=60, seed=seed) for seed, name in enumerate(("one", "two"))},
        eval_sets={"hard": {"path": str(folder / "hard.jsonl")}},
        validation_fraction=0.3,
        on_bad_row="skip",
        max_bad_fraction=0.5,
    )
    make_workflow(
        folder / "run",
        max_steps=4,
        data=data,
        model=RewardModelSource(name="tiny"),
        peft=Adapter(r=2, merge=True),
        phases=["audit", "inspect", "train", "eval", "predict"],
    ).run()
    return folder / "run"
