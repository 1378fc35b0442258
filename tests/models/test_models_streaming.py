"""What is saved one tensor at a time is, byte for byte, what transformers saves from a model in memory."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONFIG_MAPPING, CONFIGS
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BartConfig, Gemma3Config, MixtralConfig, PreTrainedConfig

from rmx.errors import ModelError
from rmx.models.streaming import renamed, save_pretrained
from rmx.training.sharded import without_weights

TIED = BartConfig(  # one embedding under three names
    vocab_size=300, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64,
    encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
)  # fmt: skip
EXPERTS = MixtralConfig(
    vocab_size=272, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=4, max_position_embeddings=512,
)  # fmt: skip
RENAMED = Gemma3Config(  # model.language_model.* in memory, language_model.model.* in a file
    text_config={**CONFIGS["gemma3_text"], "model_type": "gemma3_text"},
    vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "image_size": 28, "patch_size": 14},
)  # fmt: skip


def reward_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    config.num_labels, config.pad_token_id = 1, 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config, dtype=dtype)


class Lending:
    """Gives copies of a model's weights, and knows how many bytes of them are in somebody's hands."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.state, self.held, self.most, self.fetches = model.state_dict(), 0, 0, 0

    def __call__(self, name: str) -> Tensor:
        tensor = self.state[name].clone()
        self.fetches += 1
        self.held += tensor.nbytes
        self.most = max(self.most, self.held)
        weakref.finalize(tensor.untyped_storage(), self.release, tensor.nbytes)
        return tensor

    def release(self, size: int) -> None:
        self.held -= size


def saved(folder: Path, write: Callable[[Path], None]) -> dict[str, bytes]:
    folder.mkdir()
    write(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("size", ["50GB", "20KB"])
@pytest.mark.parametrize(
    ("config", "dtype"),
    [(CONFIG_MAPPING["llama"](**CONFIGS["llama"]), torch.bfloat16),
     (CONFIG_MAPPING["gpt2"](**CONFIGS["gpt2"]), torch.float32),
     (CONFIG_MAPPING["deberta-v2"](**CONFIGS["deberta-v2"]), torch.float32),
     (TIED, torch.float32), (EXPERTS, torch.bfloat16), (RENAMED, torch.float32)],
    ids=["llama", "gpt2", "deberta", "tied", "experts", "renamed"],
)  # fmt: skip
def test_the_folder_is_that_of_transformers(
    config: Any, dtype: torch.dtype, size: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every file, the index and the config among them; one tensor at a time, but for what transformers converts."""
    model = reward_model(config, dtype)
    lending = Lending(model)
    there = saved(tmp_path / "there", lambda folder: model.save_pretrained(folder, max_shard_size=size))
    with caplog.at_level(logging.INFO, "rmx"):
        here = saved(
            tmp_path / "here",
            lambda folder: save_pretrained(without_weights(model), folder, lending, max_shard_size=size),
        )
    assert here.keys() == there.keys() and (size == "50GB") == ("model.safetensors" in here)
    assert [name for name in here if here[name] != there[name]] == []
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    assert lending.fetches == len(weights)
    if config is EXPERTS:
        assert "transformers converts its weights while they are saved" in caplog.text
        assert lending.most == sum(weights.values())
    else:
        assert caplog.text == ""
        assert lending.most == max(weights.values())


def test_names_of_memory_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    """A checkpoint's: then nothing is converted."""
    model = reward_model(EXPERTS)
    lending, options = Lending(model), {"save_original_format": False}
    there = saved(tmp_path / "there", lambda folder: model.save_pretrained(folder, **options))
    here = saved(tmp_path / "here", lambda folder: save_pretrained(without_weights(model), folder, lending, **options))
    assert here == there
    assert lending.most == max(tensor.nbytes for tensor in model.state_dict().values())


def test_another_weight_than_was_planned_is_refused(tmp_path: Path) -> None:
    model = reward_model(CONFIG_MAPPING["llama"](**CONFIGS["llama"]))
    with pytest.raises(ModelError, match=r"was gathered as torch.float64"):
        save_pretrained(without_weights(model), tmp_path, lambda name: model.state_dict()[name].double())


def test_what_is_computed_has_no_name() -> None:
    state = {"a": torch.zeros(2), "b": torch.ones(2)}
    with pytest.raises(ModelError, match=r"^sum is computed while it is saved"):
        renamed(state, lambda given: {"sum": given["a"] + given["b"]})
