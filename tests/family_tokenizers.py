"""Small fast tokenizers with the control tokens and habits of the model families, made in code, offline."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Human: How do I bake bread without yeast? Assistant: You can use baking soda and yoghurt instead.",
    "Which planet is the largest one in the solar system? Jupiter is the largest planet by far.",
    "user assistant system model question answer first second The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))  # three",
] * 4

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# specials in id order, bos, eos, pad, does the tokenizer add BOS itself
FAMILIES: dict[str, tuple[list[str], str | None, str | None, str | None, bool]] = {
    "llama3": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
         "<|python_tag|>", "<|finetune_right_pad_id|>"],
        "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", True,
    ),
    "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>", "<|endoftext|>", False),
    "gemma": (
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>", "<pad>", True,
    ),
    "mistral": (["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>", "<unk>", True),
    "gpt2": (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>", None, False),
    "bert": (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], None, None, "[PAD]", True),
}  # fmt: skip


def _byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentencepiece_like(specials: list[str]) -> Tokenizer:
    """BPE over ▁-marked words that puts a space before the text, as Llama 2 and Mistral do."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
        initial_alphabet=[chr(point) for point in range(32, 127)] + ["\n", "▁"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@lru_cache(maxsize=16)
def _trained(family: str) -> str:
    specials, bos, _, _, adds_bos = FAMILIES[family]
    tokenizer = _sentencepiece_like(specials) if family == "mistral" else _byte_level(specials)
    if family == "bert":
        ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    elif adds_bos and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer.to_str()


def family_tokenizer(family: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A fresh tokenizer of a family of `FAMILIES`."""
    _, bos, eos, pad, _ = FAMILIES[family]
    more = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"} if family == "bert" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(family)),
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        chat_template=chat_template,
        **more,
    )
