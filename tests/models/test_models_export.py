from __future__ import annotations

import errno
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import save_base
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

import rmx
from rmx.cli import main
from rmx.errors import ConfigError, ModelError, NonFiniteError, OutputError
from rmx.models import (
    Adapter,
    LoadedModel,
    RewardModelSource,
    export_merged,
    export_openrlhf,
    export_value_head,
    read_artefact,
    save_artefact,
    verify_artefact,
)
from rmx.models.artefact.calibrated import Calibration, store_calibration
from rmx.models.quiet import quiet
from rmx.scoring.heldout import heldout_rows, score_heldout

ROWS = [[5, 6, 7, 8, 99], [9, 10, 11, 12, 13, 14, 15, 99], [20, 99]]


def rewards(model: torch.nn.Module) -> list[float]:
    with torch.no_grad():
        return [model.eval()(input_ids=torch.tensor([row])).logits.item() for row in ROWS]


def shaken(loaded: LoadedModel) -> LoadedModel:
    """Move all trainable weights, so that the adapter is not the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return loaded


def llama_factory_rewards(folder: Path, base: Path | None = None) -> list[float]:
    """LLaMA-Factory's rule: causal model, load_valuehead_params, value of the last hidden state at the last token."""
    model: Any = AutoModelForCausalLM.from_pretrained(base or folder)
    if base is not None:
        with quiet():
            model = PeftModel.from_pretrained(model, str(folder))
    params = load_file(folder / "value_head.safetensors")
    summary = torch.nn.Linear(model.config.hidden_size, 1)
    summary.weight.data, summary.bias.data = params["v_head.summary.weight"], params["v_head.summary.bias"]
    found = []
    for row in ROWS:
        with torch.no_grad():
            hidden = model.eval()(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1]
            found.append(float(summary(hidden.float())[0, -1, 0]))
    return found


def openrlhf_rewards(folder: Path) -> list[float]:
    """OpenRLHF's rule: the base class of the architecture, a linear layer named by value_head_prefix, no bias."""
    config = AutoConfig.from_pretrained(folder)
    base_class = AutoModel._model_mapping[type(config)]
    pretrained = base_class.__bases__[0]

    class RewardModel(pretrained):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            setattr(self, self.base_model_prefix, base_class(config))
            setattr(self, config.value_head_prefix, torch.nn.Linear(config.hidden_size, 1, bias=False))
            self.post_init()

        def forward(self, row: list[int]) -> float:
            hidden = getattr(self, self.base_model_prefix)(torch.tensor([row])).last_hidden_state
            return float(getattr(self, self.config.value_head_prefix)(hidden)[0, -1, 0])

    assert issubclass(pretrained, PreTrainedModel)
    model, info = RewardModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        return [model.eval()(row) for row in ROWS]


@pytest.mark.parametrize("base", ["tiny", "qwen3", "gpt2"])
def test_full_model_for_llama_factory_and_back(base: str, tmp_path: Path, template: Any) -> None:
    path = None if base == "tiny" else str(save_base(base, tmp_path))
    loaded = shaken(RewardModelSource(name=base, path=path).load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_value_head(folder, tmp_path / "lf")
    head = load_file(out / "value_head.safetensors")
    assert head["v_head.summary.weight"].equal(loaded.head.weight.detach())
    assert head["v_head.summary.bias"].tolist() == [0.0]
    expected = rewards(loaded.model)
    assert llama_factory_rewards(out) == pytest.approx(expected, abs=1e-6)
    again = RewardModelSource(name="lf", path=str(out)).load(trainable=False)
    assert again.head_was_kept and again.base_changed
    assert again.head.weight.equal(loaded.head.weight.detach())
    assert rewards(again.model) == pytest.approx(expected, abs=1e-6)


def test_adapter_for_llama_factory_and_back(tmp_path: Path, template: Any) -> None:
    base = save_base("llama", tmp_path)
    loaded = shaken(RewardModelSource(name="l", path=str(base)).load(adapter=Adapter(r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_value_head(folder, tmp_path / "lf")
    assert json.loads((out / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    expected = rewards(loaded.model)
    assert llama_factory_rewards(out, base) == pytest.approx(expected, abs=1e-6)
    again = RewardModelSource(name="lf", path=str(out)).load(trainable=False)
    assert again.head_was_kept
    assert rewards(again.model) == pytest.approx(expected, abs=1e-5)


def test_a_bias_of_llama_factory_only_shifts(tmp_path: Path, template: Any) -> None:
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    out = export_value_head(save_artefact(loaded, tmp_path / "model", template=template, contract={}), tmp_path / "lf")
    head = load_file(out / "value_head.safetensors")
    head["v_head.summary.bias"] = torch.tensor([0.25])
    save_file(head, out / "value_head.safetensors")
    again = RewardModelSource(name="lf", path=str(out)).load(trainable=False)
    assert any("bias 0.2500 is left out" in note for note in again.notes)
    assert [value - 0.25 for value in llama_factory_rewards(out)] == pytest.approx(rewards(again.model), abs=1e-6)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa"])
@pytest.mark.parametrize("base", ["tiny", "llama", "gpt2"])
def test_merged_model_scores_the_same(base: str, kind: str, tmp_path: Path, template: Any) -> None:
    path = None if base == "tiny" else str(save_base(base, tmp_path))
    loaded = shaken(RewardModelSource(name=base, path=path).load(adapter=Adapter(kind=kind, r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64}, card="# card\n")
    out = export_merged(folder, tmp_path / "model-merged")
    expected = rewards(loaded.model)
    assert rewards(AutoModelForSequenceClassification.from_pretrained(out)) == pytest.approx(expected, abs=1e-4)
    assert verify_artefact(out, ROWS, expected).max_difference < 1e-4
    merged = read_artefact(out)
    assert merged.max_tokens == 64 and merged.contract["model"]["adapter"] is None
    assert merged.loaded.adapter is None and not list(out.glob("adapter*"))
    assert openrlhf_rewards(out) == pytest.approx(expected, abs=1e-4)


def test_half_precision_is_merged_in_float32(tmp_path: Path, template: Any) -> None:
    base = save_base("llama", tmp_path, dtype=torch.bfloat16)
    loaded = shaken(RewardModelSource(name="l", path=str(base)).load(adapter=Adapter(r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_merged(folder, tmp_path / "out")
    stored = load_file(out / "model.safetensors")
    assert stored["score.weight"].dtype == torch.float32
    assert stored["model.norm.weight"].dtype == torch.bfloat16
    assert verify_artefact(out, ROWS, rewards(loaded.model)).tolerance == 0.05


def test_command(tmp_path: Path, template: Any, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    save_artefact(loaded, tmp_path / "run" / "model", template=template, contract={})
    assert main(["export", str(tmp_path / "run"), "--format", "llamafactory", str(tmp_path / "lf")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "lf")
    assert main(["export", str(tmp_path / "run"), "--format", "merged", str(tmp_path / "lf")]) == OutputError.exit_code
    assert "is not empty" in capsys.readouterr().err
    for format in ("merged", "llamafactory", "openrlhf"):
        assert main(["export", str(tmp_path / "nothing"), "--format", format, str(tmp_path / "x")]) == 2
        assert not (tmp_path / "x").exists()  # what is refused leaves nothing behind


# --- OpenRLHF, a scale, 8 bits ---


def openrlhf_normalised(folder: Path) -> list[float]:
    """OpenRLHF with its normalize_reward: (reward - config.mean) / config.std in evaluation mode."""
    config = AutoConfig.from_pretrained(folder)
    return [(reward - config.mean) / config.std for reward in openrlhf_rewards(folder)]


@pytest.mark.parametrize(("base", "head"), [("qwen3", "score"), ("llama", "value_head"), ("gpt2", "value_head")])
def test_openrlhf_loads_it(base: str, head: str, tmp_path: Path, template: Any) -> None:
    """Its class has the backbone under its prefix and the head under value_head_prefix, and misses nothing."""
    path = str(save_base(base, tmp_path))
    loaded = shaken(RewardModelSource(name=base, path=path).load(adapter=Adapter(r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_openrlhf(folder, tmp_path / "out", value_head_prefix=head)
    assert f"{head}.weight" in load_file(out / "model.safetensors")
    assert AutoConfig.from_pretrained(out).value_head_prefix == head
    expected = rewards(loaded.model)
    assert openrlhf_rewards(out) == pytest.approx(expected, abs=1e-5)
    again = RewardModelSource(name="again", path=str(out)).load(trainable=False)
    assert again.head_was_kept and rewards(again.model) == pytest.approx(expected, abs=1e-5)


def test_openrlhf_gets_the_stored_scale(tmp_path: Path, template: Any) -> None:
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    assert not hasattr(AutoConfig.from_pretrained(export_openrlhf(folder, tmp_path / "plain")), "mean")
    store_calibration(folder, Calibration("std", mean=2.0, scale=4.0, pairs=7, measured_on="x"))
    out = export_openrlhf(folder, tmp_path / "scaled")
    expected = [(reward - 2) / 4 for reward in rewards(loaded.model)]
    assert openrlhf_normalised(out) == pytest.approx(expected, abs=1e-5)


def test_openrlhf_names_what_it_refuses(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="b", path=str(save_base("modernbert", tmp_path))).load(seed=1)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    with pytest.raises(ModelError, match="is an encoder"):
        export_openrlhf(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"'a\.b' cannot name a module"):
        export_openrlhf(folder, tmp_path / "out", value_head_prefix="a.b")
    assert not (tmp_path / "out").exists()


def test_a_scale_is_applied_on_request_only(tmp_path: Path, template: Any) -> None:
    """(r - 2) / 4 where it is asked for; by rmx.load and by rmx score."""
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64})
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    with pytest.raises(ModelError, match="has no reward_calibration"):
        rmx.load(folder, calibrated=True)
    (plain,) = rmx.load(folder).score([talk])
    store_calibration(folder, Calibration("std", mean=2.0, scale=4.0, pairs=7, measured_on="x"))
    assert rmx.load(folder).score([talk]) == [plain]
    assert rmx.load(folder, calibrated=True).score([talk]) == pytest.approx([(plain - 2) / 4], abs=1e-6)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    for calibrated, expected in ((False, plain), (True, (plain - 2) / 4)):
        out = tmp_path / f"{calibrated}.jsonl"
        words = [f"model={folder}", f"input={tmp_path / 'rows.jsonl'}", f"output={out}", "device=cpu"]
        assert main(["score", *words, f"calibrated={str(calibrated).lower()}"]) == 0
        assert json.loads(out.read_text())["reward"] == pytest.approx(expected, abs=1e-5)
    edited = json.loads((folder / "config.json").read_text())
    edited["reward_calibration"]["scale"] = 0.0
    (folder / "config.json").write_text(json.dumps(edited))
    with pytest.raises(ModelError, match="the scale above 0"):
        rmx.load(folder, calibrated=True)


def write_pairs(file: Path) -> Path:
    rows = [{"prompt": f"{n}+1?", "chosen": f"{n + 1}", "rejected": "I do not know"} for n in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_scale_from_a_file_of_pairs(tmp_path: Path, template: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """On the pairs it was measured on, all calibrated rewards have mean 0 and standard deviation 1."""
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64})
    rows, out = write_pairs(tmp_path / "rows.jsonl"), tmp_path / "out"
    assert main(["export", str(folder), "--format", "calibrated", str(out), "--rows", str(rows)]) == 0
    assert "std, from 30 pairs of rows.jsonl" in capsys.readouterr().out
    found = score_heldout(rmx.load(out, calibrated=True), heldout_rows(str(rows)))
    both = np.concatenate((found.chosen_M, found.rejected_M))
    assert [both.mean(), both.std()] == pytest.approx([0, 1], abs=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_int8_says_what_it_costs(tmp_path: Path, template: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Loaded by plain transformers, its linear layers are int8, its head float32, its rewards near the first ones."""
    loaded = shaken(RewardModelSource(name="tiny").load(adapter=Adapter(r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64})
    rows, out = write_pairs(tmp_path / "rows.jsonl"), tmp_path / "out"
    assert main(["export", str(folder), "--format", "int8", str(out)]) == 2
    assert "--rows is needed" in capsys.readouterr().err
    assert main(["export", str(folder), "--format", "int8", str(out), "--rows", str(rows)]) == 0
    said = capsys.readouterr().out
    assert "accuracy on 30 pairs of rows.jsonl" in said and "largest change of a reward" in said
    stored = load_file(out / "model.safetensors")
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == torch.int8
    assert stored["score.weight"].equal(loaded.head.weight.detach().cpu())
    model = AutoModelForSequenceClassification.from_pretrained(out)
    expected = rewards(loaded.model)
    assert rewards(model) == pytest.approx(expected, abs=0.3)  # random weights: int8 keeps about 1 part in 100 of each
    assert rewards(model) != pytest.approx(expected, abs=1e-5)  # it is another model
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]


def other_names(file: Path) -> Path:
    rows = [{"question": f"{n}+1?", "good_answer": f"{n + 1}", "bad_answer": "I do not know"} for n in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_held_out_rows_with_columns_of_other_names(
    tmp_path: Path, template: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the columns found and proposes a flag that can be pasted, and works."""
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64})
    rows, out = other_names(tmp_path / "rows.jsonl"), tmp_path / "out"
    words = ["export", str(folder), "--format", "calibrated", str(out), "--rows", str(rows)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "columns found: bad_answer, good_answer, question" in said
    (flag,) = re.findall(r"give ('--columns=.*')", said)
    assert shlex.split(flag) == ["--columns={prompt: question, chosen: good_answer, rejected: bad_answer}"]
    assert main([*words, "--columns", "{prompt: question, chosen: better, rejected: bad_answer}"]) == 2
    assert "has a column better; Columns found: question, good_answer, bad_answer" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, *shlex.split(flag)]) == 0
    assert "from 30 pairs of rows.jsonl" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("where", ["save_pretrained", "measured"])
def test_an_export_that_fails_midway_leaves_nothing(
    where: str, tmp_path: Path, template: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full once weights are written, or the model in 8 bits cannot be scored: no half-made folder."""
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64})
    rows, out = write_pairs(tmp_path / "rows.jsonl"), tmp_path / "exports" / "out"
    seen: list[list[str]] = []

    def full(self: Any, place: Path, *rest: Any, **keys: Any) -> None:
        seen.append(sorted(path.name for path in Path(place).iterdir()))
        raise OSError(errno.ENOSPC, "No space left on device")

    def not_finite(scorer: Any, rows: Any) -> Any:
        seen.append(sorted(path.name for folder in out.parent.iterdir() for path in folder.iterdir()))
        if len(seen) == 1:
            return score_heldout(scorer, rows)
        raise NonFiniteError("a reward is not finite")

    out.parent.mkdir()
    if where == "measured":
        monkeypatch.setattr("rmx.scoring.heldout.score_heldout", not_finite)
    else:
        monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    assert main(["export", str(folder), "--format", "int8", str(out), "--rows", str(rows)]) in (1, 2)
    said = capsys.readouterr().err
    assert ("not finite" if where == "measured" else "No space left on device") in said
    assert "model.safetensors" in seen[-1], "the failure came before anything was written"
    assert list(out.parent.iterdir()) == []
    monkeypatch.undo()
    if where == "save_pretrained":
        for form in ("merged", "llamafactory", "openrlhf"):
            monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
            assert main(["export", str(folder), "--format", form, str(out)]) == 2
            assert list(out.parent.iterdir()) == [] and len(seen[-1]) > 1, form


def test_help_names_what_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    page = capsys.readouterr().out
    assert re.search(r"not written, and why:\n  gguf +llama\.cpp", page) and re.search(r"\n  onnx +optimum-onnx", page)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--format", "gguf"], "llama.cpp's converter knows classification heads of encoders only"),
        (["--format", "onnx"], "needs transformers below 4.58"),
        (["--format", "merged", "--scale", "std"], "--scale is for --format calibrated, not for merged"),
        (["--format", "merged", "--rows", "x"], "--rows is for --format calibrated and int8"),
        (["--format", "llamafactory", "--value-head-prefix", "x"], "is for --format openrlhf"),
        (["--format", "merged", "--columns", "{a: b}"], "--columns is for --format calibrated and int8"),
        (["--format", "calibrated", "--ignore", "a"], "--ignore is for the columns of --rows; give --rows"),
        (["--format", "calibrated"], "is no run with predictions"),
    ],
)
def test_what_is_not_written_is_refused(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), *words, str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
