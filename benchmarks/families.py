"""Tiny random models of many families: those that must share prefixes, and those that must be refused.

Each is built from its config, with sliding windows, soft caps and sinks that matter at these lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from rmx.records import EncodedComparison, Pair

VOCABULARY = 97
WINDOW = 6  # shorter than every sequence below
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "num_labels": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,  # so that attention matters, as it does after training
    "attention_dropout": 0.0,
}
MIXED = ["sliding_attention", "full_attention"]
DROPLESS = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MLA = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "head_dim": 8,
}


@dataclass(frozen=True)
class Family:
    """One architecture: its config class and what differs from `SIZES`."""

    name: str
    config: str
    changes: dict[str, Any] = field(default_factory=dict)
    encoding: str = "shared"  # what "auto" must resolve to
    norm_in_float32: bool = True  # its norms compute in float32 inside: the floor of float64 gradients is 1e-7

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """A random `...ForSequenceClassification` in evaluation mode."""
        import transformers

        config = getattr(transformers, self.config)(**{**SIZES, **self.changes})
        if dtype == torch.float64:
            config._experts_implementation = "eager"  # the grouped kernel knows no float64
        torch.manual_seed(seed)
        model = _class_for(config)(config)
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):  # left unset or zero by transformers: gpt-oss loads them
                torch.nn.init.normal_(parameter)
        return model.to(dtype).eval()


def _class_for(config: Any) -> Callable[[Any], Any]:
    """transformers' own class, or its generic one on top of a backbone for which it lists none."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutput

    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    backbone = MODEL_MAPPING[type(config)]
    base = next(c for c in backbone.__mro__ if c.__name__.endswith("PreTrainedModel"))

    def forward(self: Any, input_ids: torch.Tensor) -> SequenceClassifierOutput:
        states = self.base_model(input_ids, use_cache=False).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(states)[:, -1])

    name = backbone.__name__ + "ForSequenceClassification"
    return type(name, (GenericForSequenceClassification, base), {"forward": forward})


SHARED = [
    Family("Llama", "LlamaConfig"),
    Family("Mistral, window", "MistralConfig", {"sliding_window": WINDOW}),
    Family(
        "Qwen2, window", "Qwen2Config", {"sliding_window": WINDOW, "use_sliding_window": True, "layer_types": MIXED}
    ),
    Family("Qwen3", "Qwen3Config", {"head_dim": 8}),
    Family("Qwen3-MoE", "Qwen3MoeConfig", {**MOE, "head_dim": 8}),
    Family("Gemma", "GemmaConfig", {"head_dim": 8}),
    Family(
        "Gemma 2, softcap, window",
        "Gemma2Config",
        {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    ),
    Family("Gemma 3, window", "Gemma3TextConfig", {"head_dim": 8, "sliding_window": WINDOW, "layer_types": MIXED}),
    Family("Phi3, window", "Phi3Config", {"sliding_window": WINDOW, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    Family("OLMo2", "Olmo2Config"),
    Family("OLMo3, window", "Olmo3Config", {"sliding_window": WINDOW, "layer_types": MIXED}),
    Family("GPT-NeoX", "GPTNeoXConfig", {"hidden_dropout": 0.0}, norm_in_float32=False),
    Family("GPT-2", "GPT2Config", DROPLESS, norm_in_float32=False),
    Family("Granite", "GraniteConfig", {"attention_multiplier": 0.4, "residual_multiplier": 0.5}),
    Family("SmolLM3", "SmolLM3Config", {"no_rope_layers": [1, 0]}),
    Family("Mixtral", "MixtralConfig", MOE),
    Family("DeepSeek-V3, latent attention", "DeepseekV3Config", {**MOE, **MLA}),
    Family(
        "gpt-oss, sinks, window", "GptOssConfig", {**MOE, "head_dim": 8, "sliding_window": WINDOW, "layer_types": MIXED}
    ),
    Family("Phi", "PhiConfig", {"resid_pdrop": 0.0, "embd_pdrop": 0.0}, norm_in_float32=False),
    Family("OPT", "OPTConfig", {"dropout": 0.0, "ffn_dim": 48, "word_embed_proj_dim": 32}, norm_in_float32=False),
    Family(
        "StarCoder2, window",
        "Starcoder2Config",
        {"sliding_window": WINDOW, "residual_dropout": 0.0, "embedding_dropout": 0.0},
        norm_in_float32=False,
    ),
    Family("Cohere2, window", "Cohere2Config", {"sliding_window": WINDOW, "layer_types": MIXED}),
    Family("GLM-4", "Glm4Config", {"head_dim": 8}),
    Family("Helium", "HeliumConfig", {"head_dim": 8}),
]

NOT_SHARED = [
    Family(
        "Llama 4, chunked",
        "Llama4TextConfig",
        {**MOE, "attention_chunk_size": 8, "head_dim": 8, "intermediate_size_mlp": 48},
        "padded",
    ),
    Family("LFM2, convolution", "Lfm2Config", {"layer_types": ["conv", "full_attention"]}, "padded"),
    Family(
        "Qwen3-Next, linear attention",
        "Qwen3NextConfig",
        {
            **MOE,
            "head_dim": 8,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "shared_expert_intermediate_size": 24,
        },
        "padded",
    ),
    Family("Mamba", "MambaConfig", {"state_size": 8}, "padded"),
    Family(
        "Mamba 2",
        "Mamba2Config",
        {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
        "padded",
    ),
    Family(
        "Jamba",
        "JambaConfig",
        {**MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_dt_rank": 4},
        "padded",
    ),
    Family("BERT", "BertConfig", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, "padded"),
    Family("RoBERTa", "RobertaConfig", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, "padded"),
    Family("ModernBERT", "ModernBertConfig", {}, "padded"),
    Family(
        "DeBERTa-v3",
        "DebertaV2Config",
        {
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
        },
        "padded",
    ),
    Family("MPT, ALiBi", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2}, "padded"),
    Family("BLOOM, ALiBi", "BloomConfig", {"hidden_dropout": 0.0, "n_head": 4, "n_layer": 2}, "padded"),
    Family("Falcon, ALiBi", "FalconConfig", {"alibi": True, "hidden_dropout": 0.0}, "padded"),
    Family("Falcon, rotary", "FalconConfig", {"alibi": False, "hidden_dropout": 0.0}, "padded"),
    Family("GPT-J", "GPTJConfig", {**DROPLESS, "rotary_dim": 4}, "padded"),
    Family(
        "T5",
        "T5Config",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.0,
            "classifier_dropout": 0.0,
            "decoder_start_token_id": 0,
        },
        "padded",
    ),
    Family(
        "Qwen2-MoE, window in the mask alone",
        "Qwen2MoeConfig",
        {**MOE, "sliding_window": 200, "use_sliding_window": True, "layer_types": MIXED},
        "padded",
    ),
    Family("Qwen2, bidirectional", "Qwen2Config", {"is_causal": False}, "padded"),
]


def comparisons(seed: int = 0, vocabulary: int = VOCABULARY) -> list[EncodedComparison]:
    """Comparisons that cover the cases of the layout: K of 1 to 4, no prefix, suffixes of one token, long ones.

    Every sequence ends with token 2, which encoder-decoders read their score at, and holds it nowhere else.
    """
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, vocabulary, (count,), generator=generator).tolist()

    shapes = [(17, (5, 9)), (3, (1, 1, 14)), (0, (8, 6)), (25, (0, 30)), (11, (4,)), (9, (7, 2, 1, 3))]
    return [
        EncodedComparison(
            id=str(number),
            source="tiny",
            prefix_ids=ids(prefix),
            suffix_ids=tuple([*ids(length), 2] for length in suffixes),
            pairs=tuple(Pair(0, loser) for loser in range(1, len(suffixes))),
        )
        for number, (prefix, suffixes) in enumerate(shapes)
    ]
