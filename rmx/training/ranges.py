"""Which numbers the arguments of `transformers.TrainingArguments` may be: the class itself checks few of them.

transformers would take most of these and stumble after the model is loaded, train zero steps, or train something
else than was meant. `eval_steps` and its kin mean a fraction of all steps below 1, and steps from 1 on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Interval

from rmx.values import AtLeastZero, Count, Positive, Whole

__all__ = ["RANGES"]

_Fraction = Annotated[float, Interval(gt=0, lt=1)]
_FromZero = Annotated[float, Interval(ge=0, lt=1)]

RANGES: dict[str, Any] = {
    "adam_beta1": _FromZero,
    "adam_beta2": _FromZero,
    "adam_epsilon": Positive,
    "dataloader_num_workers": Whole,
    "dataloader_prefetch_factor": Count | None,
    "ddp_bucket_cap_mb": Count | None,
    "eval_delay": AtLeastZero,
    "eval_steps": _Fraction | Count | None,
    "gradient_accumulation_steps": Count,
    "learning_rate": AtLeastZero,  # 0 is a control: everything but the updates
    "logging_steps": _Fraction | Count,
    "max_grad_norm": AtLeastZero,  # 0 clips nothing
    "max_steps": Count | Literal[-1],  # -1 trains by epochs
    "neftune_noise_alpha": Positive | None,
    "num_train_epochs": Positive,
    "per_device_train_batch_size": Count,
    "save_steps": _Fraction | Count,
    "save_total_limit": Count | None,
    "torch_empty_cache_steps": Count | None,
    "warmup_steps": _FromZero | Count,
    "weight_decay": AtLeastZero,
}
