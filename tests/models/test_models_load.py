from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import DECODERS, ENCODERS, byte_tokenizer, save_base

from rmx.errors import ConfigError, ModelError
from rmx.models import RewardModelSource, backbone_of, head_of
from rmx.models.head import linear_of

ROWS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], [20]]


def rewards(model: torch.nn.Module, rows: list[list[int]], pad: int) -> list[float]:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)).long() for row in rows], batch_first=True)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()


def source(folder: Path, **knobs: object) -> RewardModelSource:
    return RewardModelSource(name="test", path=str(folder), **knobs)


def test_tiny_is_the_same_for_the_same_seed_and_leaves_the_random_state() -> None:
    before = torch.random.get_rng_state()
    first, second = (RewardModelSource(name="tiny").load(seed=3).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())
    other = RewardModelSource(name="tiny").load(seed=4).model.state_dict()
    assert not torch.equal(first["score.weight"], other["score.weight"])


def test_tiny_config_is_that_of_a_reward_model() -> None:
    loaded = RewardModelSource(name="tiny").load()
    config = loaded.model.config
    assert (config.num_labels, config.id2label, config.problem_type) == (1, {0: "reward"}, "regression")
    assert config.value_head_prefix == "score" and config.use_cache is False
    assert config.pad_token_id == loaded.tokenizer.pad_token_id != loaded.tokenizer.eos_token_id
    assert loaded.head.bias is None and loaded.head.weight.dtype == torch.float32
    assert len(loaded.tokenizer) < 300 and loaded.max_positions == 4096
    assert loaded.parameters == loaded.trainable_parameters


@pytest.mark.parametrize("family", DECODERS)
def test_decoders_score_the_last_token_whatever_the_padding(family: str, tmp_path: Path) -> None:
    """The reward of a row is head(h[last]), alone and beside longer rows, though some families pad with eos."""
    loaded = source(save_base(family, tmp_path)).load(trainable=False)
    model, pad = loaded.model, loaded.tokenizer.pad_token_id
    assert pad != loaded.tokenizer.eos_token_id
    assert model.config.get_text_config().pad_token_id == pad
    assert head_of(model).name == loaded.head_name == "score" and not loaded.is_encoder
    rows = [*ROWS, [30, loaded.tokenizer.eos_token_id]]
    by_hand = []
    for row in rows:
        with torch.no_grad():
            hidden = backbone_of(model)(torch.tensor([row])).last_hidden_state
        by_hand.append(float(loaded.head(hidden[0, -1])))
    assert rewards(model, rows, pad) == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_bring_their_own_pooling_and_a_zero_bias(family: str, tmp_path: Path) -> None:
    loaded = source(save_base(family, tmp_path)).load()
    assert head_of(loaded.model).name == loaded.head_name == "classifier" and loaded.is_encoder
    bias = linear_of(loaded.head).bias
    assert bias.item() == 0.0 and not bias.requires_grad
    loaded.model.eval()
    together = rewards(loaded.model, ROWS, loaded.tokenizer.pad_token_id)
    alone = [rewards(loaded.model, [row], loaded.tokenizer.pad_token_id)[0] for row in ROWS]
    assert together == pytest.approx(alone, abs=1e-5)


def test_padding_tokens_by_family(tmp_path: Path) -> None:
    """Reserved tokens are reused; a new one takes a spare embedding row (272 rows, 257 tokens) before any resizing."""
    expected = {
        "llama": "<|finetune_right_pad_id|>",
        "qwen2": "<|vision_pad|>",
        "gemma3_text": "<pad>",
        "mistral": "<unk>",
        "gpt2": "<|pad|>",
        "modernbert": "[PAD]",
    }
    for family, token in expected.items():
        loaded = source(save_base(family, tmp_path)).load(trainable=False)
        assert loaded.tokenizer.pad_token == token, family
        assert backbone_of(loaded.model).get_input_embeddings().num_embeddings == 272
        assert not loaded.base_changed


def test_embedding_grows_where_no_row_is_left(tmp_path: Path) -> None:
    loaded = source(save_base("gpt2", tmp_path, vocab_size=257)).load(trainable=False)
    assert loaded.tokenizer.pad_token_id == 257
    assert backbone_of(loaded.model).get_input_embeddings().num_embeddings == 258
    assert loaded.base_changed and any("257 to 258" in note for note in loaded.notes)


def test_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = save_base("llama", tmp_path, vocab_size=259)  # the tokenizer has 260
    with pytest.raises(ModelError, match="ids up to 259, the embedding has 259 rows"):
        source(folder).load()


def test_dtype_auto(tmp_path: Path) -> None:
    """Master weights are float32; what is only read stays as stored; the head is float32 always."""
    folder = save_base("llama", tmp_path, dtype=torch.bfloat16)
    assert source(folder).load().dtype == "float32"
    read = source(folder).load(trainable=False)
    assert (read.dtype, read.head.weight.dtype) == ("bfloat16", torch.float32)
    logits = read.model(input_ids=torch.tensor(ROWS[:1])).logits
    assert logits.dtype == torch.float32
    assert source(folder, dtype="bfloat16").load().dtype == "bfloat16"


def test_head_init(tmp_path: Path) -> None:
    """normal: N(0, 1/(H+1)), so 33 w_i^2 has mean 1 over the 32 entries, +- 3 sqrt(2/32) = 0.75."""
    folder = save_base("llama", tmp_path)
    weight = source(folder).load(seed=1).head.weight.detach()
    assert 33 * float((weight**2).mean()) == pytest.approx(1.0, abs=0.75)
    assert torch.equal(weight, source(folder, head_init="normal").load(seed=1).head.weight)
    assert not torch.equal(weight, source(folder).load(seed=2).head.weight)
    assert rewards(source(folder, head_init="zero").load().model, ROWS, 2) == [0.0, 0.0, 0.0]


def test_a_reward_model_keeps_its_head(tmp_path: Path) -> None:
    first = source(save_base("llama", tmp_path)).load(seed=5)
    assert not first.head_was_kept
    first.model.save_pretrained(tmp_path / "rm")
    first.tokenizer.save_pretrained(tmp_path / "rm")
    again = source(tmp_path / "rm").load(seed=99)
    assert again.head_was_kept and torch.equal(again.head.weight, first.head.weight)
    drawn = source(tmp_path / "rm", head_init="normal").load(seed=99)
    assert not drawn.head_was_kept and not torch.equal(drawn.head.weight, first.head.weight)


def test_a_head_with_two_outputs_is_refused_unless_replaced(tmp_path: Path) -> None:
    loaded = source(save_base("llama", tmp_path)).load()
    loaded.model.score = torch.nn.Linear(32, 2, bias=False)
    loaded.model.config.num_labels = 2
    loaded.model.save_pretrained(tmp_path / "two")
    loaded.tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match=r"2 outputs.*model.head_init=normal"):
        source(tmp_path / "two").load()
    assert source(tmp_path / "two", head_init="normal").load().head.out_features == 1


def test_freeze_layers(tmp_path: Path) -> None:
    loaded = source(save_base("llama", tmp_path), freeze_layers=1).load()
    trained = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    assert "score.weight" in trained and "model.norm.weight" in trained
    assert not any(name.startswith(("model.embed_tokens", "model.layers.0.")) for name in trained)
    assert any(name.startswith("model.layers.1.") for name in trained)
    head_only = source(tmp_path / "llama-base", freeze_layers=-1).load()
    assert [name for name, p in head_only.model.named_parameters() if p.requires_grad] == ["score.weight"]
    with pytest.raises(ConfigError, match=r"model.freeze_layers: 3; this model has 2 layers"):
        source(tmp_path / "llama-base", freeze_layers=3).load()


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    folder = save_base("gpt2", tmp_path)
    model = source(folder).load().model
    assert model.training and {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    assert model.config.attn_pdrop == 0.0
    kept = source(folder, dropout=True).load().model
    assert {m.p for m in kept.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_attention_is_passed_explicitly(tmp_path: Path) -> None:
    folder = save_base("llama", tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", '{"attn_implementation": "attacker/kernel",', 1))
    assert source(folder).load().attn_implementation == "sdpa"
    assert source(folder, attn_implementation="eager").load().attn_implementation == "eager"
    assert source(save_base("deberta-v2", tmp_path)).load().attn_implementation == "eager"
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"model.attn_implementation: flash_attention_2 needs a CUDA device"):
            source(folder, attn_implementation="flash_attention_2").load()


def test_language_model_without_a_scalar_head_class(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(
        MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=272, state_size=4, pad_token_id=0)
    ).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a mamba model, for which transformers has no \.\.\.ForSequenceClass"):
        source(tmp_path).load()


def test_bad_settings_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        RewardModelSource(name="x", path=" ", dtype="fp32", freeze_layers=-3)
    assert str(caught.value).count("\n") == 2
    assert "model.dtype: 'fp32' is not one of auto, float32, bfloat16, float16" in str(caught.value)


def test_specs_are_light() -> None:
    """Configurations are built and checked before torch is worth its import time."""
    code = (
        "import sys; from rmx.models import Adapter, LoadedModel, RewardModelSource; RewardModelSource(name='x'); "
        "Adapter(); sys.exit(bool({'torch', 'transformers', 'peft', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_a_device_that_is_not_there_is_refused_before_weights_are_read() -> None:
    for device, told in (
        ("cuda:0", "device: cuda:0: torch sees no CUDA device on this machine; leave device out, or give cpu"),
        ("gpu", "device: 'gpu' is not a device of torch; give cpu, cuda or cuda:N"),
    ):
        with pytest.raises(ConfigError) as refusal:
            RewardModelSource(name="tiny").load(device=device)
        assert str(refusal.value) == told


def test_a_gpu_beyond_those_of_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"device: cuda:2: this machine has 2, from cuda:0 to cuda:1"):
        RewardModelSource(name="tiny").load(device="cuda:2")
