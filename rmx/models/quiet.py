"""What libraries say while loading and saving, where rmx says it itself (and better) or it means nothing."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]

LARGE_BYTES = 4 * 10**9  # from here on, a progress bar is worth its line


@contextmanager
def quiet(size_bytes: int = 0) -> Iterator[None]:
    """Silence transformers' load report and, for models below 4 GB, its progress bars.

    Missing weights are an error in rmx (`model.path: ... 3 weights are missing`), the new head is in the notes.
    The warning is peft 0.21 using a property that transformers 5.23 renames; delete when peft has followed. DeepSpeed,
    which saving imports wherever it is installed, is told the device, else it says that it had to look for one.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    device = torch.accelerator.current_accelerator()
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if device is None else device.type)
    logger = logging.getLogger("transformers.modeling_utils")
    bars = transformers_logging.is_progress_bar_enabled()
    logger.addFilter(_no_report)  # not its level: from WARNING up, transformers also checks tensor-parallel plans
    if size_bytes < LARGE_BYTES:
        transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(_no_report)
        if bars:
            transformers_logging.enable_progress_bar()


def _no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
