"""Every argument of `transformers.TrainingArguments`: what it does here, or why it is refused and what to use instead.

No argument is accepted and ignored. A test compares the three tables with the installed class, so that an argument
of a new version fails the test until someone has decided about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rmx.values import Mistake, shown

__all__ = ["ACTS", "ELSEWHERE", "NOT_HERE", "SWITCHES", "VALUES", "idle", "refused"]

# Said elsewhere in the configuration: refused whatever the value, because the other place would win.
ELSEWHERE = {
    "output_dir": "the root key output_dir",
    "seed": "the root key seed",
    "data_seed": "the root key seed",
    "report_to": "the root key trackers",
    "run_name": "the root key output_dir",
    "project": "the root key project",
    "do_train": "the root key phases",
    "do_eval": "the root key phases",
    "do_predict": "the root key phases",
    "push_to_hub": "the root key push_to_hub",
    "hub_model_id": "the root key push_to_hub",
    "resume_from_checkpoint": "the root key resume",
    "ddp_timeout": "parallel.timeout_minutes",
    "disable_tqdm": "the root key verbose",
    "per_device_eval_batch_size": "trainer.max_tokens_per_micro_batch: evaluation, too, is laid out by tokens",
    "group_by_length": "trainer.train_sampling_strategy (random or sequential): rows have no padding to save",
}

# Name → (value that says nothing, why no other value is taken and what to use instead).
NOT_HERE: dict[str, tuple[Any, str]] = {
    "logging_nan_inf_filter": (False, "a loss that is not finite always stops the run; leave it out"),
    "remove_unused_columns": (False, "there are no columns: rmx lays out whole comparisons; leave it out"),
    "fp16": (False, "rewards and their loss need more range than float16 has; use trainer.precision=bf16 or fp32"),
    "fp16_full_eval": (False, "use trainer.eval_precision=bf16 or fp32"),
    "bf16_full_eval": (False, "use trainer.eval_precision=bf16"),
    "auto_find_batch_size": (
        False,
        "running out of memory halves trainer.max_tokens_per_micro_batch and keeps the batch; set that to auto",
    ),
    "label_smoothing_factor": (0.0, "use loss.label_smoothing"),
    "length_column_name": ("length", "rmx counts tokens itself; leave it out"),
    "average_tokens_across_devices": (
        True,
        "the loss is divided by the pairs of the step on all devices; leave it out",
    ),
    "use_cache": (False, "nothing is generated, so there is nothing to cache; leave it out"),
    "log_on_each_node": (True, "the first rank writes the log; leave it out"),
    "prediction_loss_only": (False, "evaluation keeps every reward; use phases without predict to write none"),
    "eval_do_concat_batches": (True, "evaluation keeps one row per pair; leave it out"),
    "eval_use_gather_object": (False, "rewards are gathered from all ranks anyway; leave it out"),
    "eval_accumulation_steps": (None, "rewards go to the CPU after every micro-batch; leave it out"),
    "include_for_metrics": ([], "metrics are made from the rewards; add your own with a callback (on_evaluate)"),
    "batch_eval_metrics": (False, "metrics are exact over all pairs, not means of batches; leave it out"),
    "label_names": (None, "pairs carry their own labels; see data.columns"),
    "save_on_each_node": (False, "checkpoints are written by the first rank into output_dir; share that folder"),
    "enable_jit_checkpoint": (False, "SIGTERM, SIGUSR1 and Ctrl-C always save a checkpoint first; leave it out"),
    "hub_token": (None, "use the environment variable HF_TOKEN"),
    "hub_private_repo": (None, "make the repository before, and give its name as the root key push_to_hub"),
    "hub_strategy": ("every_save", "the finished model is uploaded once; use the root key push_to_hub"),
    "hub_always_push": (False, "the finished model is uploaded once; use the root key push_to_hub"),
    "hub_revision": (None, "the finished model is uploaded to the main branch; use the root key push_to_hub"),
    "ignore_data_skip": (False, "a resumed run goes on at its step without reading what came before; leave it out"),
    "accelerator_config": (None, "training does not use accelerate's data loading; see trainer.dataloader_*"),
    "parallelism_config": (None, "use the group parallel: parallel=fsdp, hsdp, tp, fsdp_tp or ddp"),
    "fsdp": (None, "rmx divides the model itself; use parallel=fsdp and the keys parallel.*"),
    "fsdp_config": (None, "rmx divides the model itself; use parallel=fsdp and the keys parallel.*"),
    "deepspeed": (None, "rmx tells DeepSpeed what to divide; use parallel=zero2 or zero3"),
    "dataloader_in_order": (True, "the order of steps is fixed, so that a run can be repeated; leave it out"),
    "debug": ("", "a gradient that is not finite stops the run and names the rows; leave it out"),
    "skip_memory_metrics": (True, "use a callback that reads torch.cuda.max_memory_allocated()"),
    "local_rank": (-1, "torchrun says it in the environment"),
}  # fmt: skip

# What it does here; everything in this table is shown to act by a test.
ACTS = {
    "per_device_train_batch_size": "comparisons (not rows) that a device adds to an optimizer step at a time",
    "gradient_accumulation_steps": "times the device batch: the comparisons of a step; how they are split is up to "
    "max_tokens_per_micro_batch",
    "num_train_epochs": "passes over the training comparisons; 0.5 is half a pass",
    "max_steps": "optimizer steps in all; -1 goes by num_train_epochs",
    "learning_rate": "size of the updates, reached after the warmup; 0 does everything but the updates",
    "lr_scheduler_type": "how the learning rate falls after the warmup: cosine, linear, constant_with_warmup, ...",
    "lr_scheduler_kwargs": "further arguments of that schedule, for example {min_lr_rate: 0.1} of cosine_with_min_lr",
    "warmup_steps": "steps in which the learning rate rises from 0; below 1 a fraction of all steps",
    "optim": "the optimizer: adamw_torch, adamw_torch_fused, adafactor, adamw_bnb_8bit, ...; all but those that move "
    "weights during the backward pass (*_layerwise, lomo, adalomo)",
    "optim_args": 'further arguments of the optimizer as text, for example "rank=64,scale=0.25"',
    "optim_target_modules": "layers whose gradients galore_* and apollo_* project: name endings, or all-linear",
    "weight_decay": "decoupled decay of the weights per step, times the learning rate; biases and norms are left out",
    "adam_beta1": "decay of the mean of the gradients",
    "adam_beta2": "decay of the mean of their squares; 0.95 for short runs with large steps",
    "adam_epsilon": "added to the root of that mean before the division",
    "max_grad_norm": "gradients with a larger norm are scaled down to it; 0 does not clip",
    "bf16": "true is precision=bf16, false is precision=fp32; not given, precision decides",
    "tf32": "TensorFloat-32 for float32 products on a GPU; unset leaves torch's own choice",
    "activation_checkpointing": "recompute activations in the backward pass: about half the memory, a third more time",
    "activation_checkpointing_kwargs": "arguments of torch.utils.checkpoint, for example {use_reentrant: false}",
    "gradient_checkpointing": "the older name of activation_checkpointing",
    "gradient_checkpointing_kwargs": "the older name of activation_checkpointing_kwargs",
    "torch_compile": "compile the model's layers with torch.compile, once for rows of all lengths: slow first steps, "
    "faster ones after",
    "torch_compile_backend": "the backend of torch.compile; unset is inductor",
    "torch_compile_mode": "the mode of torch.compile: default, reduce-overhead, max-autotune",
    "use_liger_kernel": "Liger's Triton kernels for norms, rotary embedding and MLPs on a GPU; needs rmx[liger]",
    "liger_kernel_config": "which of them: {rope: false, rms_norm: true, swiglu: true, ...}; unset is all that the "
    "model has",
    "neftune_noise_alpha": "strength of uniform noise on the embeddings in training, scaled by each sequence's own "
    "length (NEFTune, Jain et al. 2023); 5 is usual",
    "torch_empty_cache_steps": "steps between two times of giving cached GPU memory back to the driver",
    "logging_strategy": "when train metrics are logged: steps, epoch, no; the last step is logged whatever it says",
    "logging_steps": "steps between two lines of train metrics; below 1 a fraction of all steps",
    "logging_first_step": "log the first step as well",
    "include_num_input_tokens_seen": "count the tokens seen in trainer_state.json: true or all; rows have no "
    "padding to leave out",
    "log_level": "of transformers' own messages: debug, info, warning, error, critical, passive",
    "log_level_replica": "of transformers' own messages, on other ranks than the first",
    "trackio_space_id": "the hub Space that shows the run, with trackers=[trackio]",
    "trackio_bucket_id": "the hub bucket that keeps the run's numbers, with trackers=[trackio]",
    "trackio_static_space_id": "the hub Space that shows a finished run without a server, with trackers=[trackio]",
    "eval_strategy": "when the evaluation sets are scored: steps, epoch, no",
    "eval_steps": "steps between two evaluations; below 1 a fraction of all steps",
    "eval_delay": "steps (epochs with eval_strategy=epoch) before the first evaluation",
    "eval_on_start": "evaluate before the first step: what the untrained head scores",
    "save_strategy": "when checkpoints are saved: steps, epoch, best, no",
    "save_steps": "steps between two checkpoints; below 1 a fraction of all steps; a multiple of eval_steps while the "
    "best checkpoint is kept",
    "save_total_limit": "checkpoints kept, older ones are removed; newest and best are always kept",
    "save_only_model": "checkpoints without optimizer, which cannot be continued; one made for a signal is whole",
    "load_best_model_at_end": "the finished model is the best checkpoint by metric_for_best_model, not the last",
    "metric_for_best_model": "what a checkpoint is the best by: eval_loss, eval_accuracy, eval_margin, ...",
    "greater_is_better": "follows from the metric; a contradiction is refused",
    "restore_callback_states_from_checkpoint": "always done",
    "full_determinism": "algorithms of torch that give the same bits every time: slower, for looking into differences",
    "use_cpu": "train on the CPU although there is a GPU",
    "dataloader_drop_last": "leaves the last, smaller step of an epoch out",
    "dataloader_num_workers": "processes that prepare steps beside the training; 0 prepares them in its own",
    "dataloader_pin_memory": "steps wait in memory that a GPU copies from faster",
    "dataloader_persistent_workers": "keep those processes from one epoch to the next",
    "dataloader_prefetch_factor": "steps that each of those processes has ready",
    "dataloader_multiprocessing_context": "how those processes are started: fork, spawn, forkserver",
    "train_sampling_strategy": "order of the training comparisons: random (anew in each epoch) or sequential",
    "ddp_find_unused_parameters": "unset: looked at once, before training",
    "ddp_bucket_cap_mb": "megabytes of gradients that are averaged in one message between devices",
    "ddp_broadcast_buffers": "send the first rank's buffers to the others before every forward pass",
    "ddp_static_graph": "promise that every step uses the same parameters, so that communication overlaps more",
    "ddp_backend": "of torch.distributed: nccl, gloo, mpi, ...; unset follows from the device",
}

# Values of acting arguments that rmx does not take.
VALUES = {
    ("train_sampling_strategy", "group_by_length"): "rows without padding make it needless; use random",
    ("include_num_input_tokens_seen", "non_padding"): "rows have no padding to leave out; use true",
}


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


# (key, whether a value of it switches off, the keys that then do nothing); null is a key that is not given.
SWITCHES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ("max_steps", _positive, ("num_train_epochs",)),
    ("eval_strategy", _one_of(None, "no"), ("eval_steps", "eval_delay")),
    ("eval_strategy", _one_of("epoch"), ("eval_steps",)),
    ("save_strategy", _one_of("no", "epoch", "best"), ("save_steps",)),
    ("logging_strategy", _one_of("no", "epoch"), ("logging_steps",)),
    ("lr_scheduler_type", _one_of("constant", "reduce_lr_on_plateau", "greedy"), ("warmup_steps",)),
    ("activation_checkpointing", _one_of(None, False), ("activation_checkpointing_kwargs",)),
    ("gradient_checkpointing", _one_of(None, False), ("gradient_checkpointing_kwargs",)),
    ("torch_compile", _one_of(False), ("torch_compile_backend", "torch_compile_mode")),
    ("use_liger_kernel", _one_of(None, False), ("liger_kernel_config",)),
    (
        "dataloader_num_workers",
        _one_of(None, 0),
        ("dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"),
    ),
    ("metric_for_best_model", _one_of(None), ("greater_is_better",)),
)


def idle(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (a key that does nothing, the key because of which) for what is given.

    >>> idle({"max_steps": 10, "num_train_epochs": 3.0, "eval_strategy": "steps", "eval_steps": 5})
    [('num_train_epochs', 'max_steps')]
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    checkpointing = ("activation_checkpointing", "gradient_checkpointing")  # two names of one thing
    given |= dict.fromkeys(checkpointing, any(map(given.get, checkpointing)))
    if given.get("load_best_model_at_end") or given.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
        given.setdefault("metric_for_best_model", "loss")  # as transformers does
    return [
        (name, key)
        for key, is_off, names in SWITCHES
        if is_off(given.get(key))
        for name in names
        if arguments.get(name) not in (None, False)
    ]


def refused(arguments: Mapping[str, Any]) -> list[Mistake]:
    """Return what rmx does not take, and why.

    >>> [str(mistake) for mistake in refused({"seed": 1, "use_cache": False})]
    ['trainer.seed: rmx sets this itself; use the root key seed']
    """
    mistakes = []
    for name, value in arguments.items():
        key = f"trainer.{name}"
        if name in ELSEWHERE:
            mistakes.append(Mistake(key, f"rmx sets this itself; use {ELSEWHERE[name]}"))
        elif name in NOT_HERE and not says_nothing(value, NOT_HERE[name][0]):
            mistakes.append(Mistake(key, f"{shown(key, value)} is not supported: {NOT_HERE[name][1]}"))
        elif isinstance(value, str) and (name, value) in VALUES:
            mistakes.append(Mistake(key, f"{value!r} is not supported: {VALUES[name, value]}"))
    return mistakes


def says_nothing(value: Any, neutral: Any) -> bool:
    """Whether a value asks for nothing that is not so anyway.

    >>> says_nothing(None, True), says_nothing("", None), says_nothing(0, 0.0), says_nothing(False, True)
    (True, True, True, False)
    """
    return value is None or value == neutral or not (value or neutral)
