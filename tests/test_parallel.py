"""Divided weights are the same weights: losses, gradient norms, artefact and predictions of one process.

Ten steps of plain gradient descent from the same start, in float32. What may differ is the order of float32 sums.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_base
from transformers import TrainingArguments
from workflows import make_workflow

from rmx.errors import ConfigError, ModelError
from rmx.models import Adapter, RewardModelSource
from rmx.models.layers import layers_of
from rmx.parallel import MeshSizes, Replicated, Sharded, Zero
from rmx.training.divided import check_arguments, without_weights
from rmx.training.sharded import OPTIMIZERS, ShardedWeights
from rmx.training.tensor_parallel import layer_styles

TESTS = Path(__file__).parent


def run(folder: Path, strategy: str, processes: int, /, **changes: Any) -> subprocess.CompletedProcess[str]:
    job = [str(TESTS / "parallel_job.py"), str(folder), strategy, json.dumps(changes)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    command = (launch if processes > 1 else [sys.executable]) + job
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def trained(folder: Path, strategy: str, processes: int, /, **changes: Any) -> Path:
    done = run(folder, strategy, processes, **changes)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of one process, each made once."""
    made: dict[str, Path] = {}

    def get(**changes: Any) -> Path:
        name = json.dumps(changes)
        if name not in made:
            made[name] = trained(tmp_path_factory.mktemp("alone") / "run", "none", 1, **changes)
        return made[name]

    return get


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def column(folder: Path, key: str) -> list[float]:
    return [row[key] for row in lines(folder, "metrics.jsonl") if row["phase"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def assert_same(one: Path, other: Path, *, rounding: float = 1e-6) -> None:
    """Losses within 1e-6, all weights together within 1e-6 of their norm, predictions alike in ids and order."""
    assert len(column(one, "train/loss")) == len(column(other, "train/loss")) >= 3
    assert column(other, "train/loss") == pytest.approx(column(one, "train/loss"), abs=1e-6)
    assert column(other, "train/pairs") == column(one, "train/pairs")
    assert column(other, "train/accuracy") == column(one, "train/accuracy")
    assert column(other, "train/grad_norm") == pytest.approx(column(one, "train/grad_norm"), rel=5e-6)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    moved = [name for name in a if "lora_B" in name]
    assert all(
        torch.isclose(a[name], b[name], rtol=1e-4, atol=1e-5 * float(a[name].abs().max())).all() for name in moved
    )
    difference = sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5
    assert difference <= rounding * sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5
    there, here = lines(one, "generated_predictions.jsonl"), lines(other, "generated_predictions.jsonl")
    assert [row["id"] for row in here] == [row["id"] for row in there]
    assert [row["chosen"] for row in here] == pytest.approx([row["chosen"] for row in there], abs=1e-5)
    evaluations = [json.loads((folder / "eval_results.json").read_text()) for folder in (one, other)]
    assert evaluations[0]["eval_accuracy"] == evaluations[1]["eval_accuracy"]


COMPILED = {"trainer_torch_compile": True, "trainer_torch_compile_backend": "eager"}  # against one compiled process
LORA = {"lora": True, "trainer_learning_rate": 0.1}  # B starts at 0: it has to move for A to have a gradient
FAST = [("fsdp", 2, {}), ("tp", 2, {}), ("fsdp", 2, {"lora": True}), ("zero2", 2, {}), ("zero3", 2, {})]
TABLE = [
    *((strategy, processes, {"lora": lora} if lora else {})
      for strategy, processes in (("ddp", 2), ("ddp", 4), ("fsdp", 2), ("fsdp", 4), ("hsdp", 4), ("offload", 2),
                                  ("zero2", 2), ("zero2", 4), ("zero3", 2), ("zero3", 4))
      for lora in (False, True)),
    ("tp", 2, {}), ("tp", 4, {}), ("fsdp_tp", 4, {}),
    ("tp", 2, LORA), ("tp", 4, LORA), ("fsdp_tp", 4, LORA), ("tp", 2, {**LORA, "kind": "rslora"}),
    ("tp", 2, {**LORA, "kind": "pissa"}), ("tp", 2, {**LORA, "trainer_gradient_checkpointing": True}),
    ("fsdp_tp", 4, {**LORA, "trainer_max_grad_norm": 0.05}), ("tp", 2, {**LORA, "responses": 4}),
    *((strategy, 4, {"trainer_comparisons_per_step": 2}) for strategy in ("fsdp", "zero2", "zero3")),  # ranks without
    ("fsdp_tp", 4, {"trainer_comparisons_per_step": 1}),
    ("zero2", 2, {"responses": 4}), ("zero3", 4, {"responses": 4}), ("zero3", 2, {"trainer_async_save": True}),
    ("zero2", 2, {"trainer_encoding": "separate"}), ("zero3", 2, {"trainer_gradient_checkpointing": True}),
    ("zero2", 2, {"trainer_max_grad_norm": 0.05}), ("zero3", 2, {"trainer_max_grad_norm": 0.05}),
    ("fsdp", 2, {"responses": 4}), ("hsdp", 4, {"responses": 4}), ("tp", 2, {"responses": 4}),
    ("fsdp", 2, {"trainer_async_save": True}), ("ddp", 2, {"trainer_async_save": True, "lora": True}),
    ("fsdp", 2, {"trainer_encoding": "separate"}), ("tp", 2, {"trainer_encoding": "separate"}),
    ("fsdp", 2, {"trainer_gradient_checkpointing": True}), ("tp", 2, {"trainer_gradient_checkpointing": True}),
    *((strategy, 2, {**COMPILED, **more})
      for strategy in ("ddp", "fsdp", "tp") for more in ({}, {"trainer_encoding": "separate"})),
    ("ddp", 2, {**COMPILED, "lora": True}), ("fsdp", 2, {**COMPILED, "lora": True}), ("offload", 2, COMPILED),
    ("hsdp", 4, COMPILED), ("fsdp_tp", 4, COMPILED), ("fsdp", 2, {**COMPILED, "trainer_gradient_checkpointing": True}),
    ("fsdp", 2, {"trainer_max_grad_norm": 0.05}), ("fsdp_tp", 4, {"trainer_max_grad_norm": 0.05}),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "processes", "changes"), FAST, ids=str)
def test_a_divided_run_is_the_run_of_one_process(
    strategy: str, processes: int, changes: dict[str, Any], alone: Any, tmp_path: Path
) -> None:
    assert_same(alone(**changes), trained(tmp_path / "run", strategy, processes, **changes))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "processes", "changes"), TABLE, ids=str)
def test_the_table_of_strategies(
    strategy: str, processes: int, changes: dict[str, Any], alone: Any, tmp_path: Path
) -> None:
    assert_same(alone(**changes), trained(tmp_path / "run", strategy, processes, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": True, "trainer_learning_rate": 0.1}], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_norms_inside_attention_see_the_heads_of_their_process(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Every process norms its own heads; the gradient of the norm's weight, which all of them hold, is the sum.
    Below an adapter the norms stay as they are."""
    base = str(save_base(family, tmp_path))
    one = trained(tmp_path / "one", "none", 1, path=base, **changes)
    assert_same(one, trained(tmp_path / "run", "tp", 2, path=base, **changes))


ADAM = {"trainer_optim": "adamw_torch", "trainer_learning_rate": 1e-3, "trainer_lr_scheduler_type": "constant",
        "trainer_save_steps": 3, "trainer_eval_steps": 3}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": True}, {"trainer_async_save": True}], ids=str)
def test_a_checkpoint_continues_on_other_processes_and_strategies(
    changes: dict[str, Any], alone: Any, tmp_path: Path
) -> None:
    """2 to 4 to 1 to 2 processes; Adam turns the rounding of small gradients into 1e-5 of a weight."""
    chain = [("fsdp", 2, 3), ("hsdp", 4, 6), ("tp", 2, 7), ("none", 1, 8), ("ddp", 2, 9), ("fsdp_tp", 4, 10)]
    assert_continues(chain, changes, alone, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": True}, {"trainer_async_save": True}], ids=str)
def test_deepspeed_continues_what_torch_has_saved_and_the_reverse(
    changes: dict[str, Any], alone: Any, tmp_path: Path
) -> None:
    chain = [("zero3", 2, 3), ("fsdp", 2, 4), ("zero2", 4, 6), ("none", 1, 7), ("zero3", 4, 8), ("ddp", 2, 9)]
    assert_continues([*chain, ("zero2", 2, 10)], changes, alone, tmp_path)


def assert_continues(chain: list[tuple[str, int, int]], changes: dict[str, Any], alone: Any, tmp_path: Path) -> None:
    settings = {**ADAM, **changes, "resume_allow": ["trainer.max_steps"]}
    for strategy, processes, steps in chain:
        trained(tmp_path / "run", strategy, processes, **settings, max_steps=steps)
    assert (tmp_path / "run" / "run.log").read_text().count("Continuing from") == len(chain) - 1
    one = alone(**ADAM, **changes)
    assert column(tmp_path / "run", "train/loss") == pytest.approx(column(one, "train/loss"), abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name.startswith("schedule_free")])
def test_schedule_free_optimizers_move_parts_as_they_move_the_whole(optimizer: str, alone: Any, tmp_path: Path) -> None:
    """Ten steps; those of Adam's kind make the rounding of a tiny gradient a step: 1e-6 of a weight."""
    pytest.importorskip("schedulefree")
    settings = {**ADAM, "trainer_optim": optimizer}
    one, run = alone(**settings), trained(tmp_path / "run", "fsdp", 2, **settings)
    assert column(run, "train/loss") == pytest.approx(column(one, "train/loss"), abs=2e-6)
    a, b = weights(one), weights(run)
    difference = sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5
    assert difference <= 1e-5 * sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_a_finished_model_is_scored_with_divided_weights(strategy: str, alone: Any, tmp_path: Path) -> None:
    one = alone()
    model = {"path": str(one / "model"), "phases": ["eval", "predict"]}
    scored = trained(tmp_path / "run", strategy, 2, **model)
    there, here = lines(one, "generated_predictions.jsonl"), lines(scored, "generated_predictions.jsonl")
    assert [row["id"] for row in here] == [row["id"] for row in there]
    assert [row["chosen"] for row in here] == pytest.approx([row["chosen"] for row in there], abs=1e-5)


@pytest.mark.parametrize(
    ("strategy", "processes", "changes"),
    [("fsdp", 2, {}),
     *(pytest.param(*cell, marks=pytest.mark.slow) for cell in (
         ("fsdp", 2, {"lora": True}), ("tp", 2, {}), ("tp", 2, {"lora": True}), ("hsdp", 4, {"lora": True}),
         ("offload", 2, {}), ("fsdp_tp", 4, {}),
         ("zero2", 2, {}), ("zero3", 2, {}), ("zero3", 2, {"lora": True})))],
    ids=str,
)  # fmt: skip
def test_each_process_reads_its_part_of_the_files(
    strategy: str, processes: int, changes: dict[str, Any], alone: Any, tmp_path: Path
) -> None:
    """The run of one process that read all of them; head and adapter are drawn from the seed."""
    base = str(save_base("llama", tmp_path))
    one = trained(tmp_path / "one", "none", 1, path=base, **changes)
    several = trained(tmp_path / "several", strategy, processes, path=base, **changes)
    assert ("every process reads its part of the weights only" in (several / "run.log").read_text()) == (
        strategy != "zero2"  # whose processes hold all of them
    )
    assert "every process reads" not in (one / "run.log").read_text()
    assert_same(one, several)


# --- A base in 4 bits -------------------------------------------------------------------------------------------------

QLORA = {"lora": True, "kind": "qlora", "dtype": "float32", "trainer_learning_rate": 0.3}


@pytest.fixture(scope="module")
def base_to_pack(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama whose layers bitsandbytes packs: in blocks of 64."""
    folder = tmp_path_factory.mktemp("base")
    return str(save_base("llama", folder, dtype=torch.bfloat16, hidden_size=128, intermediate_size=128, head_dim=32))


@pytest.mark.parametrize(
    ("strategy", "processes", "changes"),
    [("fsdp", 2, {}),
     *(pytest.param(*cell, marks=pytest.mark.slow) for cell in (
         ("ddp", 2, {}), ("fsdp", 4, {}), ("hsdp", 4, {}), ("offload", 2, {}),
         ("fsdp", 2, {"trainer_gradient_checkpointing": True}), ("fsdp", 2, {"trainer_async_save": True}),
         ("fsdp", 2, {"trainer_encoding": "separate"})))],
    ids=str,
)  # fmt: skip
def test_a_base_in_4_bits_is_divided(
    strategy: str, processes: int, changes: dict[str, Any], alone: Any, base_to_pack: str, tmp_path: Path
) -> None:
    """The run of one process on the same packed weights; of two, each holds half of their bytes, and all scales."""
    settings = {**QLORA, **changes, "path": base_to_pack}
    one = alone(**settings)
    several = trained(tmp_path / "run", strategy, processes, **settings)
    assert_same(one, several)
    log = (several / "run.log").read_text()
    if strategy != "ddp":
        assert "every process reads its part of the weights only" in log
        assert "the 4-bit weights are divided; each process holds their scales whole" in log
    assert json.loads((several / "model" / "reward_contract.json").read_text())["model"]["quantization"] == {
        "bits": "4bit", "compute_dtype": "float32",
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_on_4_bits_continues_on_other_processes(alone: Any, base_to_pack: str, tmp_path: Path) -> None:
    settings = {**QLORA, **ADAM, "path": base_to_pack}
    chain = [("fsdp", 2, 3), ("hsdp", 4, 6), ("none", 1, 8), ("fsdp", 2, 10)]
    for strategy, processes, steps in chain:
        allowed = {"resume_allow": ["trainer.max_steps"], "max_steps": steps}
        trained(tmp_path / "run", strategy, processes, **settings, **allowed)
    assert (tmp_path / "run" / "run.log").read_text().count("Continuing from") == len(chain) - 1
    losses = column(alone(**settings), "train/loss")
    assert column(tmp_path / "run", "train/loss") == pytest.approx(losses, abs=2e-6)


@pytest.mark.slow
def test_a_finished_adapter_is_scored_on_its_divided_4_bits(alone: Any, base_to_pack: str, tmp_path: Path) -> None:
    """Its base is packed whole by every process, and divided then."""
    one = alone(**QLORA, path=base_to_pack)
    model = {"path": str(one / "model"), "dtype": "float32"}
    scored = trained(tmp_path / "run", "fsdp", 2, **model, phases=["eval", "predict"])
    assert "it lies below a stored adapter" in (scored / "run.log").read_text()
    there, here = lines(one, "generated_predictions.jsonl"), lines(scored, "generated_predictions.jsonl")
    assert [row["chosen"] for row in here] == pytest.approx([row["chosen"] for row in there], abs=1e-5)


def test_packed_weights_are_not_divided_by_columns(base_to_pack: str) -> None:
    source = RewardModelSource(path=base_to_pack)
    model = source.load(adapter=Adapter(kind="qlora"), divided=True).model
    with pytest.raises(ConfigError, match=r"parallel\.tensor=2: packed weights are not divided by rows and columns"):
        layer_styles(model, 2)


@pytest.mark.slow
def test_what_has_to_be_read_whole_is_said(tmp_path: Path) -> None:
    base = str(save_base("llama", tmp_path))
    run_folder = trained(tmp_path / "run", "fsdp", 2, path=base, kind="dora", lora=True, max_steps=2)
    assert (
        "every process reads the whole model before it is divided: its adapter" in (run_folder / "run.log").read_text()
    )


# --- What cannot be ---


def test_sizes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = run(tmp_path / "run", "fsdp", 1)
    assert "weights are divided among processes, and there is one" in done.stderr
    assert not (tmp_path / "run").exists()


def test_sizes_by_hand() -> None:
    assert Sharded(replicate="auto", shard=4).sizes(16) == MeshSizes(4, 4, 1)
    assert Sharded(shard=1, tensor="auto").sizes(4) == MeshSizes(1, 1, 4)
    for wrong, processes, text in (
        (Sharded(shard=3), 4, "replicate=1 x shard=3 x tensor=1 are 3 processes, and there are 4"),
        (Sharded(tensor=3), 4, "are 3 processes, and there are 4"),
        (Sharded(tensor="auto"), 4, "shard and tensor are both auto"),
        (Replicated(), 1, "there is one process"),
        (Zero(stage=3), 1, "parallel=zero3: there is one process, and nothing to divide"),
    ):
        with pytest.raises(ConfigError, match=text):
            wrong.sizes(processes)


def test_auto_replicas_are_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert Sharded(replicate="auto").sizes(16) == MeshSizes(replicate=2, shard=8, tensor=1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"optim": "adafactor"}, "trainer.optim=adafactor: is not known to be right on divided weights"),
     ({"optim": "lion_32bit"}, "trainer.optim=lion_32bit: is not known .*; give one of adamw_torch, .*schedule_free"),
     ({"ddp_bucket_cap_mb": 10}, "trainer.ddp_bucket_cap_mb: belongs to parallel=ddp")],
)  # fmt: skip
def test_what_needs_whole_weights_is_refused(arguments: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        check_arguments(TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments), OPTIMIZERS)


def test_of_an_adapter_the_side_that_its_layer_divides_is_divided() -> None:
    """q takes whole rows and hands on a part, as B does; o takes a part, as A does. Norms and the head stay whole."""
    model = RewardModelSource().load(adapter=Adapter(r=2, target_modules=["q_proj", "o_proj"])).model
    block = "layers.0.self_attn."
    assert {name: style for name, style in layer_styles(model, 2).items() if name.startswith(block)} == {
        f"{block}q_proj.base_layer": "colwise", f"{block}q_proj.lora_B.default": "colwise",
        f"{block}k_proj": "colwise", f"{block}v_proj": "colwise",
        f"{block}o_proj.base_layer": "rowwise", f"{block}o_proj.lora_A.default": "rowwise",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "text"),
    [(Adapter(kind="dora"), "parallel.tensor=2: DoRA norms whole columns of a weight; take parallel=fsdp"),
     (Adapter(dropout=0.1), "peft.dropout=0.1 would be drawn alike for different columns"),
     (Adapter(extra={"bias": "lora_only"}), "peft.extra.bias=lora_only is not divided")],
    ids=str,
)  # fmt: skip
def test_adapters_that_need_more_than_their_parts_are_refused(adapter: Adapter, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        layer_styles(RewardModelSource().load(adapter=adapter).model, 2)


def test_deepspeed_is_asked_for_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"parallel=zero2: needs deepspeed; pip install 'rmx\[deepspeed\]'"):
        Zero().refuse_missing()


def test_quantised_weights_are_not_divided_by_deepspeed(tmp_path: Path) -> None:
    model = RewardModelSource(name="m", path=str(tmp_path), quantization="4bit")
    with pytest.raises(ConfigError, match="DeepSpeed does not divide the weights of"):
        make_workflow(tmp_path, model=model, peft=Adapter(), parallel=Zero(stage=3))


def test_a_division_that_did_not_take_effect_stops_the_run() -> None:
    strategy = object.__new__(ShardedWeights)
    strategy.data_mesh = SimpleNamespace(size=lambda: 2)  # type: ignore[assignment]
    with pytest.raises(ModelError, match="the weight weight was not divided among 2 processes"):
        strategy.refuse_whole(torch.nn.Linear(2, 2))


def test_the_layers_are_the_longest_list_and_the_copy_has_no_weights() -> None:
    model = torch.nn.ModuleDict({
        "few": torch.nn.ModuleList([torch.nn.Linear(2, 2)]),
        "many": torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)]),
    })  # fmt: skip
    assert layers_of(model) == list(model["many"])
    copy = without_weights(model)
    assert all(p.is_meta for p in copy.parameters()) and not any(p.is_meta for p in model.parameters())
