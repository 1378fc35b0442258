"""Every argument of `transformers.TrainingArguments` acts, which is shown here, or is refused with the reason.

`shows` names the arguments that a test shows to act; the last test compares them all with the installed class.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_bench import make_trainer
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from workflows import make_workflow

from rmx.errors import ConfigError
from rmx.models.layers import layers_of
from rmx.run.inputs import load_for_run
from rmx.training.arguments import shipped_values, trainer_settings
from rmx.training.keys import ACTS, ELSEWHERE, NOT_HERE, SWITCHES, VALUES, idle
from rmx.training.loop import Loop
from rmx.training.optimizers import check_optimizer, check_schedule
from rmx.training.preflight import check_before_data
from rmx.training.ranges import RANGES
from rmx.training.resuming import Start
from rmx.training.steps import make_loader
from rmx.training.strategies import DataParallel, join_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
SHOWN: set[str] = set()


def shows(*names: str) -> Callable[[Any], Any]:
    """Mark a test as the one that shows these arguments to act."""
    SHOWN.update(names)
    return lambda test: test


def lines(folder: Path, phase: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == phase]


def steps(folder: Path, phase: str = "train") -> list[int]:
    return [row["step"] for row in lines(folder, phase)]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in (folder / "checkpoints").glob("checkpoint-*"))


def trained(folder: Path, **arguments: Any) -> Loop:
    loop = make_trainer(folder, **arguments)
    loop.train()
    return loop


def begun(folder: Path, **arguments: Any) -> Loop:
    """A loop with its optimizer and schedule, before the first step."""
    loop = make_trainer(folder, **arguments)
    loop.begin(None)
    return loop


def weights(loop: Loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


# --- Refused ----------------------------------------------------------------------------------------------------------


def other_value(name: str) -> Any:
    """A value that asks for something."""
    neutral = NOT_HERE[name][0]
    if isinstance(neutral, bool):
        return not neutral
    return {float: 0.1, int: 3, list: ["loss"]}.get(type(neutral), "other")


@pytest.mark.parametrize("name", sorted(NOT_HERE))
def test_what_rmx_does_not_do_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        trainer_settings(**{name: other_value(name)})
    assert str(error.value).startswith(f"trainer.{name}: ")
    assert str(error.value).endswith(f" is not supported: {NOT_HERE[name][1]}")


@pytest.mark.parametrize("name", sorted(NOT_HERE))
def test_a_value_that_asks_for_nothing_is_taken(name: str, tmp_path: Path) -> None:
    """The neutral value is the class's own default, or what rmx does anyway, so nothing is ignored."""
    neutral = NOT_HERE[name][0]
    default = FIELDS[name].default if FIELDS[name].default_factory is dataclasses.MISSING else []
    if name not in ("logging_nan_inf_filter", "remove_unused_columns"):
        assert neutral == default
    args = trainer_settings(**{name: neutral}).training_arguments(tmp_path, 0, evaluates=True)
    plain = trainer_settings().training_arguments(tmp_path, 0, evaluates=True)
    assert getattr(args, name) == getattr(plain, name)


@pytest.mark.parametrize(("name", "value"), sorted(VALUES))
def test_values_of_acting_keys_that_rmx_does_not_do_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer.{name}: '{value}' is not supported: .*; use "):
        trainer_settings(**{name: value})


# What is needed for a switch of `SWITCHES` to have a value that switches off.
OFF = {
    "max_steps": {"max_steps": 5}, "eval_strategy": {"eval_strategy": "no"}, "save_strategy": {"save_strategy": "no"},
    "logging_strategy": {"logging_strategy": "no"}, "lr_scheduler_type": {"lr_scheduler_type": "constant"},
    "torch_compile": {"torch_compile": False}, "use_liger_kernel": {"use_liger_kernel": False},
}  # fmt: skip
EXAMPLE = {
    "num_train_epochs": 2.0, "eval_steps": 3, "eval_delay": 2.0, "save_steps": 3, "logging_steps": 3, "warmup_steps": 4,
    "activation_checkpointing_kwargs": {"use_reentrant": False}, "dataloader_prefetch_factor": 2,
    "gradient_checkpointing_kwargs": {"use_reentrant": False}, "torch_compile_backend": "eager",
    "torch_compile_mode": "default", "dataloader_persistent_workers": True,
    "liger_kernel_config": {"rope": False}, "dataloader_multiprocessing_context": "spawn", "greater_is_better": True,
}  # fmt: skip
PAIRS = sorted({(name, key) for key, _, names in SWITCHES for name in names})


@pytest.mark.parametrize(("name", "key"), PAIRS)
def test_a_key_that_another_switches_off_is_refused_or_known(name: str, key: str) -> None:
    """Refused where nobody but the user can have given it; a key of default.yaml may be left there by chance."""
    arguments = {**OFF.get(key, {}), name: EXAMPLE[name]}
    assert (name, key) in idle(arguments)
    if name in shipped_values():
        trainer_settings(**arguments)
    else:
        with pytest.raises(ConfigError, match=rf"trainer.{name}: does nothing with trainer.{key}="):
            trainer_settings(**arguments)


def test_saving_in_the_background_needs_something_to_save() -> None:
    with pytest.raises(ConfigError, match=r"^trainer.async_save: does nothing with trainer.save_strategy=no; leave"):
        trainer_settings(async_save=True, save_strategy="no")


def test_the_best_checkpoint_needs_one_of_each_evaluated_step(tmp_path: Path) -> None:
    settings = trainer_settings(load_best_model_at_end=True, save_strategy="no", eval_strategy="steps", eval_steps=1)
    told = "trainer.save_strategy=no is not trainer.eval_strategy=steps; make the two equal, or set it to false"
    with pytest.raises(ConfigError, match=told) as refusal:
        settings.training_arguments(tmp_path, 0, evaluates=True)
    assert "\n" not in str(refusal.value)  # a line is a mistake
    assert not settings.training_arguments(tmp_path, 0, evaluates=False).load_best_model_at_end


def test_keys_of_a_file_that_do_nothing_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """But for the epochs of a run whose steps are given: the header says which of the two it follows."""
    settings = trainer_settings(max_steps=5, num_train_epochs=3.0, logging_strategy="epoch", logging_steps=7)
    with caplog.at_level(logging.INFO):
        check_before_data(settings, {}, output_dir=tmp_path, seed=0)
    assert caplog.messages == ["trainer.logging_steps=7 does nothing: trainer.logging_strategy=epoch"]


def test_optimizer_arguments_that_the_optimizer_does_not_read_are_refused(tmp_path: Path) -> None:
    def mistakes(**arguments: Any) -> list[str]:
        args = trainer_settings(**arguments).training_arguments(tmp_path, 0, evaluates=True)
        return check_optimizer(args, arguments) + check_schedule(args)

    assert mistakes(optim="sgd", adam_beta1=0.5) == [
        "trainer.adam_beta1: sgd does not use it; leave it out, or use trainer.optim_args"
    ]
    assert mistakes(optim="rmsprop", optim_args="alpha=0.5,beta=1") == [
        "trainer.optim_args: rmsprop has no argument 'beta' (given beta=1); leave it out"
    ]
    assert mistakes(optim_target_modules=["q_proj"]) == [
        "trainer.optim_target_modules: adamw_torch_fused does not use it; it is for galore_* and apollo_*"
    ]
    (wrong,) = mistakes(lr_scheduler_type="polynomial", lr_scheduler_kwargs={"lr_min": 1e-6})
    assert wrong.startswith(
        "trainer.lr_scheduler_kwargs: {'lr_min': 1e-06} does not fit trainer.lr_scheduler_type=poly"
    )
    assert mistakes(lr_scheduler_type="constant", lr_scheduler_kwargs={"power": 2}) == [
        "trainer.lr_scheduler_kwargs: the schedule constant has no arguments; leave them out"
    ]


@shows("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
@pytest.mark.parametrize("name", ["trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"])
def test_trackio_keys_reach_its_tracker_and_are_refused_without_it(name: str, tmp_path: Path) -> None:
    """transformers' TrackioCallback reads them from these arguments."""
    settings = trainer_settings(**{name: "someone/place"})
    assert getattr(settings.training_arguments(tmp_path, 0, evaluates=True), name) == "someone/place"
    check_before_data(settings, {}, output_dir=tmp_path, seed=0, trackers=["trackio"])
    with pytest.raises(ConfigError, match=rf"trainer.{name}: does nothing without trackers=\[trackio\]"):
        check_before_data(settings, {}, output_dir=tmp_path, seed=0, trackers=["wandb"])


# --- Act: how long, how much ------------------------------------------------------------------------------------------


@shows("per_device_train_batch_size", "gradient_accumulation_steps")
def test_device_batch_times_accumulation_is_the_step(tmp_path: Path) -> None:
    """24 comparisons in steps of 3 × 2: 4 steps an epoch, 6 pairs in the first."""
    loop = trained(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=2, max_steps=1)
    assert len(loop.steps) == 4 and lines(tmp_path)[0]["train/pairs"] == 6


@shows("num_train_epochs", "max_steps")
def test_epochs_or_steps_end_the_run(tmp_path: Path) -> None:
    """24 comparisons in steps of 8 are 3 steps; an epoch and a half is rounded up to 5."""
    assert trained(tmp_path / "a", max_steps=-1, num_train_epochs=1.5).state.global_step == 5
    assert trained(tmp_path / "b", max_steps=4).state.global_step == 4


@shows("dataloader_drop_last")
def test_the_last_smaller_step_is_left_out(tmp_path: Path) -> None:
    assert len(make_trainer(tmp_path / "a", size=20).steps) == 3
    assert len(make_trainer(tmp_path / "b", size=20, dataloader_drop_last=True).steps) == 2


@shows("train_sampling_strategy")
def test_sequential_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    assert make_trainer(tmp_path / "a", train_sampling_strategy="sequential").steps.order(0) == list(range(24))
    assert make_trainer(tmp_path / "b").steps.order(0) != list(range(24))


# --- Act: optimizer and schedule --------------------------------------------------------------------------------------


@shows("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
def test_the_learning_rate_of_each_step(tmp_path: Path) -> None:
    """Up over 2 of 6 steps, then (peak - end) (1 - progress)² + end over the other 4: rates in 1e-3."""
    loop = trained(
        tmp_path, learning_rate=1e-3, max_steps=6, warmup_steps=2, lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"lr_end": 2e-4, "power": 2.0},
    )  # fmt: skip
    rates = [row["train/learning_rate"] * 1e3 for row in lines(tmp_path)]
    assert rates == pytest.approx([0, 0.5, 1, 0.2 + 0.8 * 0.5625, 0.2 + 0.8 * 0.25, 0.2 + 0.8 * 0.0625])
    assert loop.schedule.get_last_lr() == pytest.approx([2e-4, 2e-4])


NEEDED = {"cosine_with_min_lr": {"min_lr": 1e-5}, "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
          "warmup_stable_decay": {"num_decay_steps": 2}}  # fmt: skip


@pytest.mark.parametrize("name", [schedule.value for schedule in SchedulerType])
def test_every_schedule_trains(name: str, tmp_path: Path) -> None:
    evaluates = {"evaluate": True, "eval_strategy": "steps", "eval_steps": 1}
    loop = trained(
        tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs=NEEDED.get(name), max_steps=3, size=32, **evaluates
    )
    assert loop.state.global_step == 3 and loop.optimizer.param_groups[0]["lr"] > -1e-12


@pytest.mark.parametrize(("metric", "mode"), [("eval_loss", "min"), ("eval_accuracy", "max")])
@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_follow_a_metric_know_which_way_is_better(
    name: str, metric: str, mode: str, tmp_path: Path
) -> None:
    loop = begun(
        tmp_path,
        evaluate=True,
        lr_scheduler_type=name,
        metric_for_best_model=metric,
        eval_strategy="steps",
        eval_steps=1,
    )
    assert loop.schedule.mode == mode and loop.waits_for_metric


def needs(name: str) -> dict[str, Any]:
    return {"optim_target_modules": ["q_proj"], "optim_args": "rank=2"} if name.startswith(("galore", "apollo")) else {}


@shows("optim")
@pytest.mark.filterwarnings("ignore::Warning")  # of optional packages that are older than torch
@pytest.mark.parametrize("name", [optimizer.value for optimizer in OptimizerNames])
def test_every_optimizer_trains_or_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    """Refused: those that move the weights in the backward pass, and those whose package or device is not here."""
    arguments = {"optim": name, **needs(name)}
    args = trainer_settings(**arguments).training_arguments(tmp_path, 0, evaluates=False)
    mistakes = check_optimizer(args, arguments)
    if name.endswith("layerwise") or "lomo" in name:
        assert mistakes and "moves the weights during the backward pass" in mistakes[0]
    elif mistakes:
        assert (
            re.match(rf"trainer.optim: {name}\b.*(install|import|cannot work on cpu)", mistakes[0])
            and name not in ALWAYS
        )
    else:
        before = weights(make_trainer(tmp_path / "before", **arguments))
        after = weights(trained(tmp_path / "after", max_steps=6, **arguments))  # RAdam rests in the first steps
        assert torch.isfinite(after).all() and not torch.equal(before, after)


ALWAYS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")  # torch and transformers alone


def test_fused_adamw_is_adamw_within_rounding(tmp_path: Path) -> None:
    """One kernel for the whole update: the same formula, whose float32 operations come in another order."""
    fused, loops = (
        weights(trained(tmp_path / name, max_steps=6, optim=name, weight_decay=0.1, max_grad_norm=0.0))
        for name in ("adamw_torch_fused", "adamw_torch")
    )
    start = weights(make_trainer(tmp_path / "start"))
    assert (fused - loops).norm() <= 1e-5 * (loops - start).norm()


@shows("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
def test_adams_numbers_reach_it(tmp_path: Path) -> None:
    """Matrices decay; biases and norms do not."""
    loop = begun(tmp_path, weight_decay=0.1, adam_beta1=0.5, adam_beta2=0.75, adam_epsilon=1e-3)
    decayed, others = loop.optimizer.param_groups
    assert (decayed["betas"], decayed["eps"], decayed["weight_decay"]) == ((0.5, 0.75), 1e-3, 0.1)
    assert others["weight_decay"] == 0.0
    assert {p.ndim for p in others["params"]} == {1} and {p.ndim for p in decayed["params"]} == {2}


@shows("optim_args")
def test_optim_args_reach_the_optimizer(tmp_path: Path) -> None:
    loop = begun(tmp_path, optim="rmsprop", optim_args="alpha=0.5,momentum=0.25")
    assert (loop.optimizer.defaults["alpha"], loop.optimizer.defaults["momentum"]) == (0.5, 0.25)


@shows("optim_target_modules")
def test_target_modules_choose_what_a_projected_optimizer_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is not needed to see which parameters transformers hands to it."""
    made: dict[str, Any] = {}

    class AdamW(torch.optim.AdamW):
        def __init__(self, params: Any, **options: Any) -> None:
            made["groups"] = [dict(group) for group in params]
            plain = [{"params": group["params"]} for group in params]
            super().__init__(plain, lr=options["lr"])

    monkeypatch.setattr("transformers.trainer_optimizer.is_apollo_torch_available", lambda: True)
    monkeypatch.setitem(sys.modules, "apollo_torch", types.SimpleNamespace(APOLLOAdamW=AdamW))
    loop = begun(tmp_path, optim="apollo_adamw", optim_target_modules=["q_proj"], optim_args="rank=2")
    queries = [p for name, p in loop.model.named_parameters() if "q_proj" in name and p.ndim == 2]
    (projected,) = [group for group in made["groups"] if "rank" in group]
    assert queries and {id(p) for p in projected["params"]} == {id(p) for p in queries}
    assert projected["rank"] == 2


@shows("max_grad_norm")
def test_gradients_are_clipped_to_the_norm_and_0_leaves_them(tmp_path: Path) -> None:
    """With plain SGD at rate 1 the weights move by the clipped gradient: its norm, or 0.01."""
    for name, most in (("clipped", 0.01), ("free", 0.0)):
        arguments = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_steps": 1}
        before = weights(make_trainer(tmp_path / "before", **arguments))
        loop = trained(tmp_path / name, max_grad_norm=most, **arguments)
        norm = lines(tmp_path / name)[0]["train/grad_norm"]
        moved = float((weights(loop) - before).double().norm())
        assert norm > 0.05
        assert moved == pytest.approx(most or norm, rel=1e-3)


# --- Act: numerics ----------------------------------------------------------------------------------------------------


@shows("bf16")
def test_bf16_is_the_precision_of_training(tmp_path: Path) -> None:
    assert make_trainer(tmp_path / "a", bf16=True, precision="auto").engine.precision == "bf16"
    assert make_trainer(tmp_path / "b", bf16=False, precision="auto").engine.precision == "fp32"
    with pytest.raises(ConfigError, match=r"trainer.bf16: true contradicts trainer.precision=fp32; give one of them"):
        trainer_settings(bf16=True, precision="fp32")


@shows("tf32")
def test_tf32_is_switched_on_or_refused_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switched = []
    monkeypatch.setattr("transformers.training_args.enable_tf32", switched.append)
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    for value in (True, False):
        trainer_settings(tf32=value).training_arguments(tmp_path, 0, evaluates=True)
    assert switched == [True, False]
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: False)
    with pytest.raises(ConfigError, match="trainer: transformers refuses these settings: --tf32 requires"):
        trainer_settings(tf32=True).training_arguments(tmp_path, 0, evaluates=True)


@shows(
    "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
)  # fmt: skip
@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointing_computes_again_and_changes_no_gradient(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sgd = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    plain = trained(tmp_path / "plain", **sgd)
    called: list[bool | None] = []
    original = torch.utils.checkpoint.checkpoint

    def checkpoint(*args: Any, use_reentrant: bool | None = None, **kwargs: Any) -> Any:
        called.append(use_reentrant)
        return original(*args, use_reentrant=use_reentrant, **kwargs)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", checkpoint)
    for reentrant in (False, True):
        called.clear()
        asked = {name: True, f"{name}_kwargs": {"use_reentrant": reentrant}}
        loop = trained(tmp_path / str(reentrant), **sgd, **asked)
        assert called and set(called) == {reentrant}
        assert torch.allclose(weights(loop), weights(plain), atol=1e-6)


@shows("torch_compile", "torch_compile_backend", "torch_compile_mode")
def test_the_layers_are_compiled_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: asked.append((type(self).__name__, options))
    )
    begun(tmp_path / "a", torch_compile=True)
    begun(tmp_path / "b", torch_compile_backend="eager", torch_compile_mode="max-autotune")
    begun(tmp_path / "c")
    layers = len(layers_of(make_trainer(tmp_path / "d").model))
    assert asked == [
        *[("LlamaDecoderLayer", {"backend": "inductor", "mode": None, "dynamic": True})] * layers,
        *[("LlamaDecoderLayer", {"backend": "eager", "mode": "max-autotune", "dynamic": True})] * layers,
    ]


@shows("use_liger_kernel", "liger_kernel_config")
def test_ligers_kernels_are_put_in_place_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run on a GPU, but for the device: the model is loaded, changed, and scored by nobody."""
    pytest.importorskip("liger_kernel")
    monkeypatch.setattr("rmx.models.fused.require_fusable", lambda *given: None)
    asked = {"trainer_use_liger_kernel": True, "trainer_liger_kernel_config": {"rope": False, "swiglu": False}}
    workflow = make_workflow(tmp_path / "run", trainer_use_cpu=True, **asked)
    args = workflow.trainer.training_arguments(tmp_path, 0, evaluates=True)
    loaded = load_for_run(workflow, args, trains=True)
    assert loaded.fused == "7 LigerRMSNorm"  # two in each of three layers, and the last one
    assert (
        load_for_run(
            make_workflow(tmp_path / "plain"),
            trainer_settings(use_cpu=True).training_arguments(tmp_path, 0, evaluates=True),
            trains=True,
        ).fused
        is None
    )


@shows("neftune_noise_alpha")
def test_noise_is_added_in_training_only(tmp_path: Path) -> None:
    """At rate 0 the weights stay, so training's loss differs by the noise alone, and evaluation's does not."""
    plain = trained(tmp_path / "plain", max_steps=1, learning_rate=0.0)
    noisy = trained(tmp_path / "noisy", max_steps=1, learning_rate=0.0, neftune_noise_alpha=5.0)
    assert lines(tmp_path / "plain")[0]["train/loss"] != lines(tmp_path / "noisy")[0]["train/loss"]
    rows = plain.steps.comparisons
    for a, b in zip(plain.scorer.rewards(rows), noisy.scorer.rewards(rows), strict=True):
        assert a.tolist() == b.tolist()


@shows("full_determinism")
def test_full_determinism_is_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with deterministic_as_before():
        make_trainer(tmp_path / "a")
        assert not torch.are_deterministic_algorithms_enabled()
        make_trainer(tmp_path / "b", full_determinism=True)
        assert torch.are_deterministic_algorithms_enabled()


@contextlib.contextmanager
def deterministic_as_before() -> Iterator[None]:
    import os

    environment = dict(os.environ)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
        os.environ.clear()
        os.environ.update(environment)


@shows("torch_empty_cache_steps")
def test_the_cache_is_emptied_every_so_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[int] = []
    loop = make_trainer(tmp_path, max_steps=5, torch_empty_cache_steps=2)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(loop.state.global_step))
    loop.train()
    assert emptied == [2, 4]


@shows("use_cpu")
def test_use_cpu_is_the_device_of_ranks_and_of_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = trainer_settings(use_cpu=True).training_arguments(tmp_path, 0, evaluates=True)
    assert args.device.type == "cpu" and args.dataloader_pin_memory is False
    assert joined({"use_cpu": True}, monkeypatch)["backend"] == "gloo"


# --- Act: what is due -------------------------------------------------------------------------------------------------


@shows("logging_strategy", "logging_steps", "logging_first_step")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"logging_steps": 2}, [2, 4, 5]),
        ({"logging_steps": 0.5}, [3, 5]),  # ceil(0.5 × 5) = 3, and the last
        ({"logging_steps": 2, "logging_first_step": True}, [1, 2, 4, 5]),
        ({"logging_strategy": "epoch"}, [3, 5]),  # 3 steps an epoch
        ({"logging_strategy": "no"}, [5]),
    ],
)
def test_lines_of_the_log(arguments: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    trained(tmp_path, max_steps=5, **arguments)
    assert steps(tmp_path) == expected


@shows("eval_strategy", "eval_steps", "eval_delay", "eval_on_start")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2}, [2, 4, 5]),
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3}, [4, 5]),
        ({"eval_strategy": "steps", "eval_steps": 0.4, "eval_on_start": True}, [0, 2, 4, 5]),
        ({"eval_strategy": "epoch"}, [3, 5]),
        ({"eval_strategy": "epoch", "eval_delay": 1.5}, [5]),
        ({"eval_strategy": "no"}, []),
    ],
)
def test_evaluations(arguments: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    """32 comparisons, 8 of them for evaluation: 3 steps an epoch."""
    trained(tmp_path, size=32, evaluate=True, max_steps=5, **arguments)
    assert steps(tmp_path, "eval") == expected


@shows("save_strategy", "save_steps", "save_total_limit", "save_only_model")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"save_strategy": "steps", "save_steps": 2}, [2, 4, 5]),
        ({"save_strategy": "steps", "save_steps": 0.4}, [2, 4, 5]),
        ({"save_strategy": "epoch"}, [3, 5]),
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}, [4, 5]),
        ({"save_strategy": "steps", "save_steps": 2, "save_only_model": True}, [2, 4, 5]),
    ],
)
def test_saves(arguments: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    trained(tmp_path, max_steps=5, **arguments)
    assert checkpoints(tmp_path) == expected
    for path in (tmp_path / "checkpoints").glob("checkpoint-*"):
        assert (path / "optimizer.json").exists() is not arguments.get("save_only_model", False)


@shows("metric_for_best_model", "greater_is_better", "load_best_model_at_end")
@pytest.mark.parametrize("metric", ["eval_loss", "accuracy", "eval_margin"])
def test_the_best_checkpoint_by_the_metric_is_what_remains(metric: str, tmp_path: Path) -> None:
    """At a rate that spoils the model; greater_is_better may be said, and may not contradict the metric."""
    better = metric != "eval_loss"
    arguments = {
        "size": 32, "evaluate": True, "max_steps": 5, "learning_rate": 0.3, "eval_strategy": "steps", "eval_steps": 1,
        "lr_scheduler_type": "constant", "save_steps": 1, "metric_for_best_model": metric, "save_strategy": "steps",
        "greater_is_better": better,
    }  # fmt: skip
    loop = trained(tmp_path / "best", load_best_model_at_end=True, **arguments)
    name = f"eval/{metric.removeprefix('eval_')}"
    values = {row["step"]: row[name] for row in lines(tmp_path / "best", "eval")}
    best = (max if better else min)(values, key=lambda step: values[step])
    assert loop.position.best_step == best
    last = trained(tmp_path / "last", load_best_model_at_end=False, **arguments)
    again = begun(tmp_path / "again", **arguments)
    for folder, step in ((tmp_path / "best", best), (tmp_path / "last", 5)):
        again.strategy.load_model(again.model, folder / "checkpoints" / f"checkpoint-{step}")
        assert torch.equal(weights(again), weights(loop if folder.name == "best" else last))
    with pytest.raises(ConfigError, match=r"trainer.greater_is_better: (true|false) contradicts"):
        trainer_settings(metric_for_best_model=metric, greater_is_better=not better)


def test_save_strategy_best_saves_at_improvements_alone(tmp_path: Path) -> None:
    trained(
        tmp_path, size=32, evaluate=True, max_steps=5, learning_rate=0.3, eval_strategy="steps", eval_steps=1,
        save_strategy="best", metric_for_best_model="eval_loss", lr_scheduler_type="constant",
    )  # fmt: skip
    best, expected = float("inf"), []
    for row in lines(tmp_path, "eval"):
        if row["eval/loss"] < best:
            best = row["eval/loss"]
            expected.append(row["step"])
    assert checkpoints(tmp_path) == expected and len(expected) < 5


# --- Act: the rest ----------------------------------------------------------------------------------------------------


@shows("include_num_input_tokens_seen")
def test_tokens_seen_are_counted(tmp_path: Path) -> None:
    loop = trained(tmp_path, include_num_input_tokens_seen=True)
    tokens = sum(row["train/tokens"] for row in lines(tmp_path))
    assert loop.state.num_input_tokens_seen == tokens > 0
    assert loop.state.log_history[-1]["num_input_tokens_seen"] == tokens
    assert trained(tmp_path / "off").state.num_input_tokens_seen == 0


@shows("log_level", "log_level_replica")
def test_transformers_own_messages_have_a_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    try:
        make_trainer(tmp_path / "a", log_level="debug")
        assert get_verbosity() == logging.DEBUG
        monkeypatch.setattr(TrainingArguments, "local_process_index", 1)
        monkeypatch.setattr(TrainingArguments, "process_index", 1)
        make_trainer(tmp_path / "b", log_level="debug", log_level_replica="critical")
        assert get_verbosity() == logging.CRITICAL
    finally:
        set_verbosity(before)


@shows("restore_callback_states_from_checkpoint")
@pytest.mark.parametrize("asked", [True, False])
def test_callbacks_have_their_state_back(asked: bool, tmp_path: Path) -> None:
    """Whatever is asked for: two evaluations without progress of four that are allowed, before the break and after."""
    from transformers import EarlyStoppingCallback

    arguments = {
        "size": 32, "evaluate": True, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps",
        "save_steps": 1, "learning_rate": 0.0, "metric_for_best_model": "eval_loss",
        "restore_callback_states_from_checkpoint": asked,
    }  # fmt: skip
    trained(tmp_path, max_steps=3, callbacks={"stop": EarlyStoppingCallback(4)}, **arguments)
    stop = EarlyStoppingCallback(4)
    loop = make_trainer(tmp_path, max_steps=9, callbacks={"stop": stop}, **arguments)
    loop.train(Start(tmp_path / "checkpoints" / "checkpoint-3"))
    # The first evaluation is progress, those at steps 2 to 5 are not.
    assert (loop.state.global_step, stop.early_stopping_patience_counter) == (5, 4)


@shows(
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers",
    "dataloader_multiprocessing_context",
)  # fmt: skip
def test_steps_are_prepared_by_workers(tmp_path: Path) -> None:
    arguments = {
        "dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True,
        "dataloader_multiprocessing_context": "fork",
    }  # fmt: skip
    loop = trained(tmp_path / "a", **arguments)
    loader = loop.loader
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 3, True)
    assert loader.multiprocessing_context.get_start_method() == "fork"
    assert torch.equal(weights(loop), weights(trained(tmp_path / "b")))


@shows("dataloader_pin_memory")
def test_memory_is_pinned_where_there_is_a_gpu(tmp_path: Path) -> None:
    loop = make_trainer(tmp_path)
    for pins, device, expected in ((True, "cuda", True), (False, "cuda", False), (True, "cpu", False)):
        args = types.SimpleNamespace(
            **vars(loop.args) | {"dataloader_pin_memory": pins, "device": torch.device(device)}
        )
        assert make_loader(loop.steps, args).pin_memory is expected


# --- Act: several ranks -----------------------------------------------------------------------------------------------


def joined(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What torch.distributed would be started with."""
    asked: dict[str, Any] = {}
    board = types.SimpleNamespace(store=torch.distributed.HashStore(), rank=1, ranks=2)
    monkeypatch.setattr("rmx.training.strategies.meet", lambda seconds: board)
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda backend, **options: asked.update(options, backend=backend)
    )
    join_ranks(arguments, seconds=90)
    assert (asked["rank"], asked["world_size"]) == (1, 2)
    return asked


@shows("ddp_backend")
def test_ranks_meet_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = joined({"ddp_backend": "gloo"}, monkeypatch)
    assert (asked["backend"], asked["timeout"].total_seconds()) == ("gloo", 90)


@shows("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph")
def test_the_wrapper_of_ranks_is_made_as_asked(tmp_path: Path) -> None:
    """A group of one rank; two ranks train in test_ranks.py."""
    import torch.distributed as dist

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:

        def wrapper(name: str, **arguments: Any) -> Any:
            loop = make_trainer(tmp_path / name, **arguments)
            strategy = DataParallel(loop.args)
            strategy.place(loop.model, loop.try_backward)
            return strategy.wrapped

        plain = wrapper("plain")
        assert (plain.find_unused_parameters, plain.forward_sync_buffers, plain.static_graph) == (False, True, False)
        asked = wrapper("a", ddp_find_unused_parameters=True, ddp_bucket_cap_mb=3, ddp_broadcast_buffers=False)
        assert (asked.find_unused_parameters, asked.forward_sync_buffers) == (True, False)
        assert asked.bucket_bytes_cap == 3 * 1024 * 1024 != plain.bucket_bytes_cap
        assert wrapper("b", ddp_static_graph=True).static_graph
    finally:
        dist.destroy_process_group()


# --- All of them ------------------------------------------------------------------------------------------------------


def test_every_argument_of_the_installed_class_is_decided_about() -> None:
    """An argument of a later transformers fails here until it acts, or is refused with a reason."""
    assert not set(ACTS) & set(NOT_HERE) and not set(ACTS) & set(ELSEWHERE) and not set(NOT_HERE) & set(ELSEWHERE)
    decided = {*ACTS, *NOT_HERE, *ELSEWHERE}
    assert set(FIELDS) - decided == set()
    assert decided - set(FIELDS) == {"group_by_length"}  # of transformers 4
    assert set(ACTS) == SHOWN
    assert set(RANGES) <= set(ACTS)
    assert {key for key, _, _ in SWITCHES} | {name for name, _ in PAIRS} <= set(ACTS)
    assert set(shipped_values()) - {
        "max_tokens_per_micro_batch",
        "encoding",
        "precision",
        "eval_precision",
        "comparisons_per_step",
        "stop_after",
        "async_save",
    } <= set(ACTS)
