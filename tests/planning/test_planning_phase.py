"""phases=[plan]: from the command line to plan.json, without weights, network or processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from workflows import make_workflow

from rmx.cli import main
from rmx.config import check, compose, instantiate
from rmx.engine import Engine
from rmx.errors import ConfigError, ModelError
from rmx.models import Adapter, RewardModelSource
from rmx.models.skeleton import known_shapes
from rmx.parallel import Sharded
from rmx.planning import PlanSettings
from rmx.planning.estimate import Planner
from rmx.planning.gpus import DEVICES
from rmx.planning.make import make_plan
from rmx.planning.work import rows_of_lengths
from rmx.training.flops import count_flops, peak_flops

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
LENGTHS = ["plan.comparisons=160800", "plan.prompt_tokens=120", "plan.response_tokens=45"]

# Parameters with the language-model head, as the models' pages on the hub have them.
PUBLIC = {
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400, "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248, "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768, "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688, "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664, "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648, "Qwen/Qwen3-0.6B": 596_049_920, "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096, "Qwen/Qwen3-8B": 8_190_735_360, "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264, "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "google/gemma-3-1b-it": 999_885_952, "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120, "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "EleutherAI/pythia-410m": 405_334_016, "EleutherAI/pythia-1b": 1_011_781_632,
    "openai-community/gpt2": 124_439_808,
}  # fmt: skip


def test_known_shapes_have_the_parameters_that_are_published() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert known_shapes().keys() == PUBLIC.keys()
    for name, shape in known_shapes().items():
        config = AutoConfig.for_model(shape["model_type"], **{k: v for k, v in shape.items() if k != "model_type"})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert sum(p.numel() for p in model.parameters()) == PUBLIC[name], name


def test_an_8b_on_eight_devices_is_planned_from_the_command_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """All weights of 7,504,932,864 parameters in float32 on eight processes: weights, gradients and two moments are
    an eighth each (the head's one row is whole in the first process)."""
    monkeypatch.setattr("rmx.launch.local.LocalRanks.start", lambda *_: pytest.fail("started processes"))
    words = ["phases=[plan]", "model=llama3", "data=hh_rlhf", "parallel=fsdp", "parallel.processes=8",
             "plan.device=h100", f"output_dir={tmp_path}", "trackers=[]", *LENGTHS]  # fmt: skip
    assert main(words) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["model"]["parameters"] == plan["model"]["trained"] == 8_030_261_248 - 128_256 * 4096 + 4096
    asked = plan["asked"]
    assert (asked["parallel"], asked["processes"], asked["device"]) == ("fsdp (shard 8)", 8, "h100")
    parts = asked["bytes_per_process"]
    eighth = 4 * (plan["model"]["parameters"] - 4096) // 8 + 4 * 4096
    assert parts["weights"] == parts["gradients"] == eighth
    assert parts["optimizer"] == 2 * eighth + 4 * 291  # and a step counter for each of 291 parameters
    assert asked["fits"] and asked["peak_bytes"] < 0.9 * asked["device_bytes"]
    assert asked["work"]["unique_tokens"] == 160_800 * 210 and asked["work"]["tokens"] == 160_800 * 330
    assert {fit["device"] for fit in plan["devices"]} == set(DEVICES)
    shown = capsys.readouterr().out
    assert "fits" in shown and "plan.json" in shown and "8.0" not in shown.splitlines()[0]


def test_hours_follow_from_flops_devices_and_share(tmp_path: Path) -> None:
    """Half the share takes twice the time, and four processes a quarter of it."""
    changes: dict[str, Any] = {"trainer_max_steps": 3, "trainer_comparisons_per_step": 8}

    def work(**plan: Any) -> dict[str, Any]:
        return make_plan(make_workflow(tmp_path, plan=PlanSettings(**plan), **changes))["asked"]["work"]

    one = work(mfu=0.5)
    peak = peak_flops(DEVICES["h100"].name) or 0
    assert one["steps"] == 3 and one["hours"] == pytest.approx(one["flops"] / (0.5 * peak) / 3600)
    assert work(mfu=0.25)["hours"] == pytest.approx(2 * one["hours"])
    assert work(mfu=0.5, processes=4)["hours"] == pytest.approx(one["hours"] / 4)
    assert all(peak_flops(gpu.name) for gpu in DEVICES.values())


def test_rows_that_are_here_are_counted_as_they_train(tmp_path: Path) -> None:
    """The FLOPs of one epoch are those of the run, which counts them batch by batch (in float64 sums)."""
    changes: dict[str, Any] = {"trainer_num_train_epochs": 1.0, "max_steps": -1, "trainer_eval_strategy": "no",
                               "trainer_save_strategy": "no", "trainer_load_best_model_at_end": False}  # fmt: skip
    plan = make_plan(make_workflow(tmp_path / "plan", **changes))
    trained = make_workflow(tmp_path / "run", phases=["train"], **changes).run()
    assert plan["asked"]["work"]["flops"] == pytest.approx(trained["total_flos"], rel=1e-9)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert plan["asked"]["work"]["steps"] == max(line["step"] for line in logged)
    assert plan["rows"]["origin"] == "read from synthetic"


def test_flops_without_weights_are_those_with_them(tmp_path: Path) -> None:
    workflow = make_workflow(tmp_path, peft=Adapter(r=4))
    args = workflow.trainer.training_arguments(tmp_path, 0, evaluates=True)
    planner = Planner(workflow, args, rows_of_lengths(10, 5, 5, 100))
    assert planner.counts[False] == count_flops(Engine(workflow.model.load(adapter=workflow.peft).model))


def test_what_is_not_here_is_said_and_the_rest_is_planned(tmp_path: Path, caplog: Any) -> None:
    model = RewardModelSource(name="llama", path="meta-llama/Llama-3.2-1B-Instruct")
    plan = make_plan(make_workflow(tmp_path, model=model))
    assert plan["rows"]["unknown"].startswith("give plan.comparisons, plan.prompt_tokens and plan.response_tokens")
    assert plan["asked"]["work"] is None and plan["asked"]["fits"] is True
    assert "is not in the local cache" in (tmp_path / "run.log").read_text()


def test_typed_rows_that_are_not_those_of_the_data_are_said(tmp_path: Path) -> None:
    """A recipe's count beside data that is here: both numbers, and what to give instead. The same count is silent."""
    synthetic = make_workflow(
        tmp_path / "a", size=40, plan=PlanSettings(comparisons=160_800, prompt_tokens=9, response_tokens=9)
    )
    here = len(synthetic.data.read(tmp_path).train)
    make_plan(synthetic)
    said = (tmp_path / "a" / "run.log").read_text()
    assert f"plan.comparisons=160,800, and synthetic has {here} comparisons to train on" in said
    assert "plan.comparisons=null plan.prompt_tokens=null plan.response_tokens=null" in said
    same = PlanSettings(comparisons=here, prompt_tokens=9, response_tokens=9)
    make_plan(make_workflow(tmp_path / "b", size=40, plan=same))
    assert "to train on" not in (tmp_path / "b" / "run.log").read_text()
    read_here = make_workflow(tmp_path / "c", size=40, plan=PlanSettings(comparisons=7))
    make_plan(read_here)
    assert f"plan.comparisons=7, and synthetic has {here} comparisons" in (tmp_path / "c" / "run.log").read_text()


def test_what_is_not_possible_says_why(tmp_path: Path, capsys: Any) -> None:
    """Three attention heads cannot be shared by two processes, as training itself says when it is asked to."""
    AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=30, intermediate_size=63, num_hidden_layers=2, num_attention_heads=3
    ).save_pretrained(tmp_path / "base")
    typed = PlanSettings(comparisons=9, prompt_tokens=5, response_tokens=3)
    plan = make_plan(make_workflow(tmp_path / "run", model=RewardModelSource(path=str(tmp_path / "base")), plan=typed))
    blocked = [fit for fit in plan["strategies"] if fit["why_not"] is not None]
    shown = capsys.readouterr().out
    assert {fit["parallel"] for fit in blocked} == {"fsdp_tp"} and "not possible" in shown
    assert "does not divide the model's num_attention_heads=3" in blocked[0]["why_not"]
    for fit in blocked:
        line = next(line for line in shown.splitlines() if line.startswith("not possible:") and fit["why_not"] in line)
        assert f"parallel={fit['parallel']} on {fit['processes']} processes" in line
    assert "\n1 process, parallel=none, on other devices" in shown


def test_a_folder_with_its_config_alone_is_planned(tmp_path: Path) -> None:
    AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    ).save_pretrained(tmp_path / "base")
    model = RewardModelSource(path=str(tmp_path / "base"))
    plan = make_plan(
        make_workflow(
            tmp_path / "run", model=model, plan=PlanSettings(comparisons=9, prompt_tokens=5, response_tokens=3)
        )
    )
    assert plan["model"]["parameters"] == 64 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 64) + 32 + 32


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"phases": ["plan", "train"]}, "phases: plan stands alone"),
     ({"plan": PlanSettings(prompt_tokens=5)}, r"plan\.prompt_tokens, plan\.response_tokens: give both"),
     ({"parallel": Sharded()}, "parallel: weights are divided among processes, and there is one"),
     ({"parallel": Sharded(shard=3), "plan": PlanSettings(processes=8)}, "are 3 processes, and there are 8")],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        make_workflow(tmp_path, **{"phases": ["plan"], **changes}).run()


def test_an_unknown_model_is_refused_with_what_would_do(tmp_path: Path) -> None:
    model = RewardModelSource(path="someone/nothing-1b")
    with pytest.raises(ModelError, match=r"a folder that holds it will do .* Qwen/Qwen3-4B"):
        make_plan(make_workflow(tmp_path, model=model))


def test_a_plan_is_made_by_one_process(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"made by one process; give the number as plan\.processes"):
        make_plan(make_workflow(tmp_path))


# --- Recipes ----------------------------------------------------------------------------------------------------------

RECIPES = {  # experiment: device, its memory in GB, processes, what it is planned to divide
    "card_24gb": ("rtx4090", 26, 1, "none"),
    "card_80gb": ("h100", 86, 1, "none"),
    "node_8x80gb": ("h100", 86, 8, "fsdp (shard 8)"),
    "nodes_2x8x80gb": ("h100", 86, 16, "hsdp (replicate 2 x shard 8)"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_the_device_that_they_name(name: str, tmp_path: Path) -> None:
    device, memory, processes, parallel = RECIPES[name]
    cfg = compose([f"experiment={name}", "phases=[plan]"])
    check(cfg)
    workflow = instantiate(cfg)
    args = workflow.trainer.training_arguments(tmp_path, 0, evaluates=True)
    settings = workflow.plan
    rows = rows_of_lengths(
        settings.comparisons, settings.prompt_tokens, settings.response_tokens, workflow.data.max_tokens
    )
    planner = Planner(workflow, args, rows)
    fit = planner.fit(workflow.parallel, processes, settings.device, True)
    assert settings.device == device and DEVICES[device].memory < memory * 1e9
    assert (settings.processes or workflow.parallel.processes or 1) == processes
    assert fit.parallel == parallel and fit.fits and fit.tokens >= min(2048, planner.step_tokens(processes))
    assert fit.peak is not None and fit.peak < 0.9 * DEVICES[device].memory
