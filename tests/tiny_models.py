"""Tiny random checkpoints of real architectures, built from configs: saved as folders, loaded like any download.

folder = save_base("qwen3", tmp_path)                # a base model: no head, no padding token of its own
RewardModelSource(name="qwen3", path=str(folder)).load()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())

CHATML = (
    "{% for message in messages %}{{ '\n' if not loop.first }}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)

_SMALL: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_SMALL, **_GROUPED},
    "qwen2": {**_SMALL, "num_key_value_heads": 2},
    "qwen3": {**_SMALL, **_GROUPED},
    "gemma3_text": {**_SMALL, **_GROUPED, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "mistral": {**_SMALL, **_GROUPED, "sliding_window": 16},
    "gpt2": {"vocab_size": 272, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": _SMALL,
    "modernbert": {**_SMALL, "local_attention": 16, "global_attn_every_n_layers": 2},
    "deberta-v2": {
        **_SMALL,
        "pooler_hidden_size": 32,
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "bert": _SMALL,
    "roberta": {**_SMALL, "max_position_embeddings": 514},
}
DECODERS = ["llama", "qwen2", "qwen3", "gemma3_text", "mistral", "gpt2", "gpt_neox"]
ENCODERS = ["modernbert", "deberta-v2", "bert", "roberta"]


def byte_tokenizer(
    specials: tuple[str, ...] = ("<|pad|>", "<|im_start|>", "<|im_end|>"),
    *,
    pad: str | None = "<|pad|>",
    eos: str | None = "<|im_end|>",
    chat_template: str | None = CHATML,
    **names: str,
) -> PreTrainedTokenizerFast:
    """One token per byte after the given special tokens."""
    vocabulary = {token: number for number, token in enumerate([*specials, *BYTES])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        additional_special_tokens=[token for token in specials if token not in (pad, eos, *names.values())],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **names,
    )
    made.chat_template = chat_template
    return made


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The special tokens that the family's base checkpoints ship, padding as they have it."""
    if family == "llama":  # Llama 3: no padding token, many reserved ones
        specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>")
        return byte_tokenizer(specials, pad=None, eos="<|end_of_text|>", bos_token="<|begin_of_text|>")
    if family in ("qwen2", "qwen3"):  # base models: padding is the end token
        specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>")
        return byte_tokenizer(specials, pad="<|endoftext|>", eos="<|endoftext|>")
    if family == "gemma3_text":
        return byte_tokenizer(("<pad>", "<eos>", "<bos>", "<unk>"), pad="<pad>", eos="<eos>", bos_token="<bos>")
    if family == "mistral":
        return byte_tokenizer(("<unk>", "<s>", "</s>"), pad=None, eos="</s>", bos_token="<s>", unk_token="<unk>")
    if family in ("gpt2", "gpt_neox"):
        return byte_tokenizer(("<|endoftext|>",), pad=None, eos="<|endoftext|>")
    return byte_tokenizer(
        ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"),
        pad="[PAD]",
        eos="[SEP]",
        chat_template=None,
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        unk_token="[UNK]",
    )


def save_base(family: str, parent: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Path:
    """Save a random base model of the family (language-model head, no scalar head) with its tokenizer."""
    tokenizer = family_tokenizer(family)
    config = CONFIG_MAPPING[family](
        **{**CONFIGS[family], **changes},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    auto = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config)
    folder = parent / f"{family}-base"
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
