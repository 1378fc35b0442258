"""The known traps of reward model folders: how each is found, what it does to scores, and what to do about it.

`TRAPS` is the table. Its first part looks at files alone; its second part at the weights, and is only asked where
the head is whole. Sources of what each trap does: the loading code of transformers 5.23, trl 1.16, vLLM and OpenRLHF.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2

from rmx.errors import ModelError
from rmx.models.tokenizer import NEW_PAD
from rmx.scoring.examine import weight_traps
from rmx.scoring.examine.opened import Opened
from rmx.scoring.examine.rows import ten_conversations
from rmx.scoring.examine.weight_traps import Found, clean, trap, unknown
from rmx.templates import probes, rewrite

__all__ = ["HEAD_TRAPS", "TRAPS", "Trap"]

_CENTURY = datetime.timedelta(days=36_525)


@dataclass(frozen=True)
class Trap:
    """One way in which a reward model folder misleads those who load it."""

    name: str
    look: Callable[[Opened], Found]
    meaning: str
    remedy: str
    of_weights: bool = False  # found by loading them


# --- Padding ---


def pad_is_end(opened: Opened) -> Found:
    """Is the padding token an end token, where the last token that is not padding is scored?"""
    if not opened.reads_last_token:
        return clean("an encoder: padding does not decide which token is read")
    of_config = opened.config.get_text_config().pad_token_id
    if opened.is_adapter and _is_foreign_base(opened):  # adapter_base_config says what the base's config does
        of_config = None
    pads = {of_config, opened.tokenizer.pad_token_id} - {None}
    both = sorted(pads & opened.end_token_ids)
    if both:
        return trap(f"{_token(opened, both[0])} pads and ends texts")
    return clean("the padding token ends no text")


def pad_differs(opened: Opened) -> Found:
    """Do config and tokenizer name one padding token?"""
    if not opened.reads_last_token:
        return clean("an encoder: it reads the attention mask, not the padding token")
    if opened.is_adapter and _is_foreign_base(opened):
        return unknown("the config is the base's: see adapter_base_config")
    of_config, of_tokenizer = opened.config.get_text_config().pad_token_id, opened.tokenizer.pad_token_id
    if of_config is None:
        return trap(f"the config has no pad_token_id, the tokenizer pads with {_token(opened, of_tokenizer)}")
    if of_config != of_tokenizer:
        return trap(f"config: {_token(opened, of_config)}, tokenizer: {_token(opened, of_tokenizer)}")
    return clean(f"{_token(opened, of_config)} in both")


# --- Head and labels ---


def head_missing(opened: Opened) -> Found:
    """Does the folder hold every tensor of the head?"""
    if opened.is_adapter:
        return unknown("an adapter: see adapter_without_head")
    missing = [name for name in opened.head_names if name.endswith(".weight") and name not in opened.stored_head]
    return trap(f"no {', '.join(missing)} in the weights") if missing else clean(", ".join(opened.stored_head))


def adapter_without_head(opened: Opened) -> Found:
    """Was the head saved with the adapter?"""
    if not opened.is_adapter:
        return unknown("no adapter")
    missing = [name for name in opened.head_names if name.endswith(".weight") and name not in opened.stored_head]
    return trap(f"no {', '.join(missing)} beside the adapter") if missing else clean(", ".join(opened.stored_head))


def several_labels(opened: Opened) -> Found:
    """Is there one output, in the weights and in the config?"""
    rows = {tensor.shape[0] for name, tensor in opened.stored_head.items() if name == opened.head_names[0]}
    last = [tensor.shape[0] for name, tensor in opened.stored_head.items() if name.endswith(".weight")][-1:]
    if not rows and not last:
        return unknown("no head")
    if last != [1]:
        return trap(f"the head has {last[0]} outputs")
    if opened.is_adapter and _is_foreign_base(opened):
        return unknown("the config is the base's: see adapter_base_config")
    if opened.config.num_labels != 1:
        return trap(f"the config says num_labels={opened.config.num_labels}, the head has one output")
    return clean("one")


def head_half(opened: Opened) -> Found:
    """Is the head stored in float32?"""
    kinds = sorted({tensor.dtype for tensor in opened.stored_head.values()} - {"F32", "F64"})
    if not opened.stored_head:
        return unknown("no head")
    return trap(f"stored as {', '.join(kinds)}") if kinds else clean("float32")


def head_bias(opened: Opened) -> Found:
    """Is there a bias that the architecture has no place for?"""
    biases = sorted(name for name in opened.extra_head_tensors if name.endswith("bias"))
    return trap(f"{', '.join(biases)} is stored") if biases else clean("none beside the architecture's own")


def problem_type(opened: Opened) -> Found:
    """Does the config say that the output is a plain number?"""
    if opened.is_adapter and _is_foreign_base(opened):
        return unknown("the config is the base's: see adapter_base_config")
    if not opened.stored_head:
        return unknown("no head")
    said = opened.config.problem_type
    return clean("regression") if said == "regression" else trap(f"problem_type is {said!r}")


def adapter_base_config(opened: Opened) -> Found:
    """Is an adapter loaded with the config of a reward model?"""
    if not opened.is_adapter:
        return unknown("no adapter")
    if _is_foreign_base(opened):
        return trap(f"read from the base: num_labels={opened.config.num_labels}, no problem_type")
    return clean("its base has the config of a reward model")


def _is_foreign_base(opened: Opened) -> bool:
    return opened.config.problem_type is None and opened.config.num_labels != 1


# --- Template ---


def template_missing(opened: Opened) -> Found:
    """Is there a chat template, and does it write a conversation?"""
    if not opened.tokenizer.chat_template:
        return trap("the tokenizer has no chat template")
    try:
        for row in ten_conversations():
            opened.tokenizer.apply_chat_template(row, tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        return trap(f"the chat template fails on a plain conversation: {type(error).__name__}")
    return clean("the tokenizer's own")


def template_tokens(opened: Opened) -> Found:
    """Is each control token that the template writes one token of this tokenizer?"""
    source = _source(opened)
    if source is None:
        return unknown("no template")
    # [INST] was ordinary text in Mistral's first tokenizers, which were trained so
    written = {marker for marker in rewrite.markers(source) if not marker.endswith("INST]")}
    split = [
        marker for marker in sorted(written) if len(opened.tokenizer(marker, add_special_tokens=False)["input_ids"]) > 1
    ]
    if split:
        return trap(f"{', '.join(split[:4])}{' ...' * (len(split) > 4)} is read as ordinary text")
    return clean(f"{len(written)} control tokens, each one token")


def template_changed(opened: Opened) -> Found:
    """Is the template the one that the model was trained with?"""
    trained = opened.contract.get("template", {}).get("jinja")
    source = _source(opened)
    if trained is None or source is None:
        return unknown("no reward_contract.json names the template of the training")
    return clean("that of the training") if source == trained else trap("it is not the one in reward_contract.json")


def moving_text(opened: Opened) -> Found:
    """Does the same conversation give the same text at two times?"""
    source = _source(opened)
    if source is None:
        return unknown("no template")
    by_chance = [name for name in rewrite.unpinned(source) if name != "strftime_now"]
    if by_chance:
        return trap(f"the template uses {', '.join(by_chance)}")
    tool_lists: tuple[list[Any] | None, ...] = (None, [probes.TOOL])
    today = datetime.date.today()
    try:
        texts = {
            tuple(
                str(opened.tokenizer.apply_chat_template(row, tools=tools, chat_template=pinned, tokenize=False))
                for row in ten_conversations()
                for tools in tool_lists
            )
            for pinned in (rewrite.pin_date(source, day) for day in (today, today + _CENTURY))
        }
    except (jinja2.TemplateError, TypeError, ValueError):
        return unknown("the template fails")
    return trap("the template prints the date") if len(texts) > 1 else clean("the same text on every day")


def doubled_tokens(opened: Opened) -> Found:
    """Does plain tokenisation put a start or end token beside the one that the template wrote?"""
    if opened.texts is None:
        return unknown("no template")
    ids, plain = opened.tokenizer(opened.texts[0])["input_ids"], opened.token_ids[0]
    special = set(opened.tokenizer.all_special_ids)
    for side, added, own in (("start", ids[:1], ids[1:2]), ("end", ids[-1:], ids[-2:-1])):
        if len(ids) > len(plain) and added == own and set(added) <= special:
            return trap(f"{_token(opened, added[0])} stands twice at the {side} of the text")
    return clean("once, or not at all")


def _source(opened: Opened) -> str | None:
    source = opened.tokenizer.chat_template
    source = source.get("default") if isinstance(source, dict) else source
    try:
        return source if source and rewrite.variables(source) is not None else None
    except ModelError:  # no valid Jinja: template_missing says so
        return None


# --- Limits ---


def shorter_limit(opened: Opened) -> Found:
    """Do tokenizer and model take texts as long as those of the training?"""
    trained = opened.contract.get("max_tokens")
    if not isinstance(trained, int):
        return unknown("no reward_contract.json names the limit of the training")
    limits = {
        "tokenizer.model_max_length": opened.tokenizer.model_max_length,
        "config.max_position_embeddings": getattr(opened.config.get_text_config(), "max_position_embeddings", trained),
    }
    short = [f"{name} is {limit}" for name, limit in limits.items() if isinstance(limit, int) and 0 < limit < trained]
    return trap(f"trained up to {trained} tokens, {' and '.join(short)}") if short else clean(f"{trained} tokens")


def _token(opened: Opened, number: int | None) -> str:
    return "none" if number is None else f"{opened.tokenizer.convert_ids_to_tokens(number)} ({number})"


_EXPORT = "`rmx export FOLDER --format merged OUT`"

TRAPS: tuple[Trap, ...] = (
    Trap(
        "head_missing",
        head_missing,
        "transformers draws a random head at every load, with only a line in its log: scores are noise",
        "save the trained <Arch>ForSequenceClassification with its head under that name; a value head in another "
        f"file or under another name is read by rmx: {_EXPORT}",
    ),
    Trap(
        "adapter_without_head",
        adapter_without_head,
        "the trained head is lost: every load draws a random one",
        'train again with LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"]), the head not among the targets',
    ),
    Trap(
        "several_labels",
        several_labels,
        "consumers that ask for num_labels=1 fail or draw a new head; others return several numbers",
        "a reward model has one output: keep one row of the head and set num_labels=1 in config.json",
    ),
    Trap(
        "pad_is_end",
        pad_is_end,
        "transformers scores the last token that is not padding, so one before the end token; vLLM, OpenRLHF and rmx "
        "score the end token: two scores for one text",
        f"choose another padding token in tokenizer and config.pad_token_id (a reserved one, or {NEW_PAD}); "
        f"{_EXPORT} does",
    ),
    Trap(
        "pad_differs",
        pad_differs,
        "in a padded batch transformers scores padding, or stops: scores depend on what else is in the batch",
        "set config.pad_token_id to tokenizer.pad_token_id and save both",
    ),
    Trap(
        "head_half",
        head_half,
        "rewards move in steps: of 0.0078 at 1 and 0.125 at 20 in bfloat16",
        "save the head in float32 (model.score.float()) from a float32 checkpoint of the training",
    ),
    Trap(
        "head_bias",
        head_bias,
        "transformers, vLLM and OpenRLHF leave it out without a word: scores are shifted from those of the training",
        "delete it from the weights (order and differences stay), and shift thresholds that were set with it",
    ),
    Trap(
        "problem_type",
        problem_type,
        "pipelines and vLLM put a sigmoid on the reward: 0..1, large rewards all 1.0",
        '"problem_type": "regression" in config.json',
    ),
    Trap(
        "adapter_base_config",
        adapter_base_config,
        "whoever does not ask for num_labels=1 gets another head, and padding is the base's; pipelines load a language "
        "model and stop",
        f"give consumers the merged model: {_EXPORT}",
    ),
    Trap(
        "template_missing",
        template_missing,
        "each consumer makes up its own text; scores of another text than the training's mean little",
        "save the template of the training as tokenizer.chat_template",
    ),
    Trap(
        "template_tokens",
        template_tokens,
        "the marker is split into pieces that the base model has never seen as a turn, and content can forge it",
        "use the template of this tokenizer's family, or the tokenizer that has these tokens, as in training",
    ),
    Trap(
        "template_changed",
        template_changed,
        "transformers and TRL score another text than the training did",
        "put template.jinja of reward_contract.json back as the tokenizer's chat template",
    ),
    Trap(
        "moving_text",
        moving_text,
        "the same conversation is another text tomorrow: scores depend on the day",
        "save rmx.load(FOLDER).template.jinja, which prints one fixed date, as the tokenizer's chat template",
    ),
    Trap(
        "doubled_tokens",
        doubled_tokens,
        "who tokenises the rendered text with default settings (pipelines, vLLM on text) scores another text",
        "pass add_special_tokens=False or token ids; or save the tokenizer so that it adds none",
    ),
    Trap(
        "shorter_limit",
        shorter_limit,
        "longer conversations are cut, at the end where the reward is read, or refused",
        "raise the limit in tokenizer_config.json; beyond config.max_position_embeddings the model knows no positions",
    ),
    Trap(
        "non_finite",
        weight_traps.non_finite,
        "some or all rewards are NaN, and NaN is neither above nor below any other",
        "use the checkpoint before the one in which training diverged",
        of_weights=True,
    ),
    Trap(
        "head_changed",
        weight_traps.head_changed,
        "weights and contract come from two models",
        "fetch the folder again, all of it",
        of_weights=True,
    ),
    Trap(
        "head_untrained",
        weight_traps.head_untrained,
        "the head is a fresh draw of the initialiser: scores are noise",
        "save the trained model; check that the optimizer has the head's weights and that the save came after training",
        of_weights=True,
    ),
    Trap(
        "half_moves_scores",
        weight_traps.half_moves_scores,
        "who loads in bfloat16 (vLLM does with a float32 model, dtype='auto' with a bfloat16 one) gets other scores",
        "load in float32, or keep the head and its input in float32 as rmx.load does",
        of_weights=True,
    ),
)

# Where one of these is found, there is no reward to look at further.
HEAD_TRAPS = frozenset({"head_missing", "adapter_without_head", "several_labels"})
