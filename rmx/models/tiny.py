"""The embedded default model: a small Llama built from its config and a byte-level tokenizer made in code.

Nothing is downloaded and nothing is read from disk, so `python -m rmx` works on any machine. The model is
random: it is there to learn the synthetic task on a CPU in about a minute, and to test everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

__all__ = ["CHATML", "TINY", "tiny_config", "tiny_tokenizer"]

TINY = "tiny"  # the model.path that means "the embedded model"; None means the same

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

# ChatML as OpenAI described it in 2023, which Qwen and others follow. The text ends at <|im_end|>, the scored token:
# a reward is read there, so the newline that usually follows only stands *between* messages.
CHATML = (
    "{% for message in messages %}"
    "{{ '\n' if not loop.first }}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per UTF-8 byte and three special tokens: ids 0-2, then the 256 bytes.

    Any text is representable, nothing is unknown, and decoding gives the text back. The padding token is not
    the end token: transformers reads a reward at the last token that is not padding.

    >>> tokenizer = tiny_tokenizer()
    >>> len(tokenizer), tokenizer.pad_token, tokenizer.eos_token
    (259, '<|pad|>', '<|im_end|>')
    >>> ids = tokenizer.encode("é!<|im_end|>", add_special_tokens=False)
    >>> len(ids), tokenizer.decode(ids)
    (4, 'é!<|im_end|>')
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([PAD, START, END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHATML,
        padding_side="right",
        truncation_side="left",  # the scored token is at the end
        model_max_length=tiny_config().max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )


def tiny_config() -> LlamaConfig:
    """The shape of the embedded model: a Llama of 3 layers, 128 wide, about 0.6 million parameters.

    >>> tiny_config().max_position_embeddings
    4096
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=264,  # 259 tokens, rounded up to a multiple of 8
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
