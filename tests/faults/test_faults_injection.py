"""Names and texts that try to be markup, front matter, formulas or new lines stay text (F19)."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from fault_harness import needs_fork, run_child, workflow

from rmx.data import PreferenceData
from rmx.models import RewardModelSource
from rmx.workflow import Workflow

pytestmark = needs_fork

SCRIPT = "<script>alert(1)</script>"
NAMES = [
    SCRIPT,
    "<img src=x onerror=alert(2)>",
    "](javascript:alert(3))",
    "=cmd|'/c calc'!A0",
    "a\n---\nlicense: evil",
    "\u2028",
]
# What must not stand in a page as it is: as text it is written with &lt; and the like.
ACTIVE = ("<script>alert", "<img src=x", "](javascript:", 'href="javascript:')


def write_rows(path: Path) -> None:
    """Rows whose ids, texts and answers are hostile."""
    lines = []
    for i in range(24):
        hostile = NAMES[i % len(NAMES)]
        texts = {"prompt": f"{hostile} {i}?", "chosen": f"yes {hostile} {i}", "rejected": f"no {i}"}
        lines.append(json.dumps({"id": f"{i}{hostile}", **texts}))
    path.write_text("\n".join(lines) + "\n")


def test_everything_stays_text(models: Path, tmp_path: Path) -> None:
    """A whole run: report and card hold no active markup, one front matter; every row of JSON lines is one line."""
    write_rows(tmp_path / "pairs.jsonl")

    def flow() -> Workflow:
        data = PreferenceData(
            path=str(tmp_path / "pairs.jsonl"), name=f"set {SCRIPT}", validation_fraction=0.25, max_tokens=512
        )
        made = workflow(tmp_path / "run", models, data=data, max_steps=2, eval_strategy="no", save_steps=2)
        made.model = RewardModelSource(name=NAMES[1], path=made.model.path)
        made.phases, made.tags, made.project = ["audit", "train", "eval", "predict"], NAMES[:3], NAMES[2]
        return made

    child = run_child(lambda: flow().run(), tmp_path / "log")
    assert child.code == 0, child.text[-3000:]
    report = (tmp_path / "run" / "report.html").read_text()
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    head, body = card.split("---\n", 2)[1:]
    assert isinstance(yaml.safe_load(head), dict) and "license: evil" not in body.splitlines()
    for active in ACTIVE:  # the front matter is YAML, which nobody renders
        assert active not in report and active not in body, active
    predictions = (tmp_path / "run" / "generated_predictions.jsonl").read_bytes().split(b"\n")
    ids = [json.loads(line)["id"] for line in predictions if line]
    assert len(ids) == len(set(ids)) == json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_pairs"]
