"""A template bound to a tokenizer: the final Jinja, what was found out about it, and rendering."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jinja2

from rmx.errors import DataError, ModelError
from rmx.templates import probes, rewrite
from rmx.templates.printed import RenderedText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.records import Message

__all__ = ["BoundTemplate", "Check", "bind"]


@dataclass(frozen=True)
class Check:
    """One fact about a bound template; `ok=False` is worth a line on the screen, and never stops a run."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class BoundTemplate:
    """A template that is fit for one tokenizer.

    `jinja` stands alone: with `tokenizer.chat_template = bound.jinja`, transformers' `apply_chat_template` returns
    the text of `render` for every conversation. Tokenise that text with `add_special_tokens=False`.
    """

    name: str
    jinja: str
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)
    start_token: str | None  # the one BOS (or CLS) that every text begins with, None where the model wants none
    end_token: str  # the token at which a conversation is scored
    control_tokens: tuple[str, ...]  # those that content can never produce, longest first
    checks: tuple[Check, ...] = ()
    text_arguments: bool = False  # it wants the arguments of tool calls as JSON text, not as objects

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> str:
        """The text of one conversation, ending at its scored token.

        Raises:
            DataError: the template refuses the conversation; the message is the template's own reason.
        """
        return self.render_many([messages], tools)[0]

    def render_many(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[dict[str, Any]] | None = None
    ) -> list[str]:
        """`render` for many conversations with the same tools; as one call it saves most of the overhead."""
        try:
            texts = self.tokenizer.apply_chat_template(
                list(map(self._messages, conversations)),
                tools=list(tools) if tools else None,
                chat_template=self.jinja,
                tokenize=False,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(f"template {self.name!r} cannot render a conversation: {error}") from None
        return texts  # type: ignore[return-value]

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> str:
        """The text up to where the assistant would answer (the generation prompt included)."""
        try:
            text = self.tokenizer.apply_chat_template(
                self._messages(messages),
                tools=list(tools) if tools else None,
                chat_template=self.jinja,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(f"template {self.name!r} cannot render a prompt: {error}") from None
        return text  # type: ignore[return-value]

    def _messages(self, messages: Sequence[Message]) -> list[Message]:
        return probes.with_text_arguments(messages) if self.text_arguments else list(messages)


def bind(source: str, tokenizer: PreTrainedTokenizerBase, *, name: str, date: datetime.date) -> BoundTemplate:
    """Turn chosen Jinja into the final one: date pinned, one BOS, ended at the scored token; then check it.

    Raises:
        ModelError: the template fails on a plain user/assistant conversation, has a random part, leaves out turns
            or cuts content, writes BOS twice, or the tokenizer has no token to end with.
    """
    missing = [kind for kind in ("bos_token", "eos_token") if kind not in tokenizer.special_tokens_map]
    source = rewrite.without(source, missing)
    pinned = rewrite.pin_date(source, date)
    if left := rewrite.unpinned(pinned):
        raise ModelError(f"template {name!r} uses {', '.join(left)}: the same conversation would get two texts")
    raw = _try(pinned, tokenizer, name)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    start = _start_token(tokenizer)
    tail = raw[raw.rindex(probes.ANSWER) + len(probes.ANSWER) :].rstrip()
    closing = max((token for token in added if tail.endswith(token)), key=len, default=None)
    prefix = "" if start is None or raw.lstrip().startswith(start) else _expression(start, tokenizer)
    if closing is None:
        closing, expression = _end_token(tokenizer, name)
        final = rewrite.wrap(pinned, start=prefix, end=expression)
    elif prefix or raw != raw.rstrip():
        final = rewrite.wrap(pinned, start=prefix, end=None)
    else:  # fit as it is; so is every template that went through here before
        final = pinned
    bare = BoundTemplate(name, final, tokenizer, start, closing, _control_tokens(raw, tokenizer, closing))
    _check_ends(bare, raw)
    content = Check("content", *probes.check_long(bare))
    checks = (
        _date_check(source, tokenizer, name, date),
        Check("start", True, f"exactly one {start}" if start else "the tokenizer adds no BOS, and neither does rmx"),
        Check("end", True, f"scored at {closing}"),
        _prefix_check(bare),
        content,
        _system_check(bare),
        _tools_check(bare, source),
        _control_check(source, added),
    )
    return replace(bare, checks=checks, text_arguments=probes.wants_text_arguments(bare))


def _try(source: str, tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    try:
        text = tokenizer.apply_chat_template(list(probes.SHORT), chat_template=source, tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ModelError(f"template {name!r} fails on a plain user/assistant conversation: {error}") from None
    lost = [str(message["content"]) for message in probes.SHORT if str(message["content"]) not in text]
    if lost:
        raise ModelError(
            f"template {name!r} leaves out {len(lost)} of 4 messages of a plain user/assistant conversation; "
            "templates of vision models, which want content in parts, cannot be used for text"
        )
    if probes.prints_an_address(str(text)):
        raise ModelError(
            f"template {name!r} prints the place of an object in memory (a filter without `| list` or `| join`): "
            "the same conversation would get two texts"
        )
    return text  # type: ignore[return-value]


def _start_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the tokenizer puts in front of a text by itself: BOS for most decoders, CLS for encoders."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    if full[:1] == plain[:1]:
        return None
    token = tokenizer.convert_ids_to_tokens(full[0])
    return token if token in set(tokenizer.all_special_tokens) else None


def _end_token(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[str, str]:
    for kind in ("eos_token", "sep_token"):
        token = tokenizer.special_tokens_map.get(kind)
        if token:
            return str(token), kind
    raise ModelError(
        f"template {name!r} ends with plain text and the tokenizer has neither an EOS nor a SEP token to score at; "
        "give a template that ends with a token of the tokenizer"
    )


def _control_tokens(raw: str, tokenizer: PreTrainedTokenizerBase, closing: str) -> tuple[str, ...]:
    """Special tokens, the closing one, and added tokens that mark turns.

    Some vocabularies do not call their turn markers special. An added token that is written at least twice around
    four messages marks turns; one that is written once (an empty `<think>` block) is a word that models write, too.
    """
    added = tokenizer.added_tokens_decoder.values()
    control = {token.content for token in added if token.special or raw.count(token.content) > 1} | {closing}
    return tuple(sorted((token for token in control if token.strip()), key=lambda token: (-len(token), token)))


def _expression(token: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The Jinja expression that writes `token`: the special-token variable where there is one."""
    for kind in ("bos_token", "cls_token"):
        if tokenizer.special_tokens_map.get(kind) == token:
            return kind
    return rewrite.quoted(token)


def _check_ends(bound: BoundTemplate, raw: str) -> None:
    text = bound.render(probes.SHORT)
    if raw.rstrip() not in text:
        raise ModelError(
            f"template {bound.name!r} renders differently once rmx has set its end and its BOS; "
            "give it as one flat Jinja file (no `extends`, no `block`) with template.path="
        )
    if bound.end_token == bound.tokenizer.pad_token:
        raise ModelError(
            f"template {bound.name!r} is scored at {bound.end_token!r}, which is the tokenizer's padding token: "
            "transformers would read the reward one token early; give the tokenizer another pad_token"
        )
    ids = bound.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = bound.tokenizer.convert_tokens_to_ids(bound.end_token)
    if ids[-1] != end:
        raise ModelError(
            f"template {bound.name!r} ends with {bound.end_token!r}, but the tokenizer reads the end of the text as "
            f"{bound.tokenizer.convert_ids_to_tokens(ids[-1])!r}; the scored token would be another one"
        )
    if bound.start_token is None:
        known = bound.tokenizer.added_tokens_decoder.get(ids[0])
        if ids[0] == ids[1] and known is not None and known.special:
            raise ModelError(
                f"template {bound.name!r} writes {bound.tokenizer.convert_ids_to_tokens(ids[0])!r} twice at the "
                "beginning of a text; write it once"
            )
        return
    start = bound.tokenizer.convert_tokens_to_ids(bound.start_token)
    if ids[0] != start or ids[1] == start:
        raise ModelError(
            f"template {bound.name!r} must begin with exactly one {bound.start_token!r}, and its text begins with the "
            f"tokens {bound.tokenizer.convert_ids_to_tokens(ids[:2])}; remove BOS from the template (rmx writes it)"
        )


def _date_check(source: str, tokenizer: PreTrainedTokenizerBase, name: str, date: datetime.date) -> Check:
    """Render with the clock at two days; a difference means that the template prints the date, now pinned."""
    texts = {_try(rewrite.pin_date(source, day), tokenizer, name) for day in (date, date + datetime.timedelta(400))}
    if len(texts) > 1:
        return Check("date", True, f"prints the date: pinned to {date.isoformat()} in the saved template, too")
    return Check("date", True, "the same text on every date")


def _prefix_check(bound: BoundTemplate) -> Check:
    """Is the prompt's text, as a policy sees it, the beginning of the full text?"""
    try:
        prompt = bound.prompt(probes.SHORT[:-1])
    except DataError as error:
        return Check("prompt", False, str(error))
    full = bound.render(probes.SHORT)
    if full.startswith(prompt):
        return Check("prompt", True, "the prompt's text is the beginning of the full text")
    same = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full)))
    return Check(
        "prompt",
        False,
        f"after {same} characters the prompt goes on with {prompt[same : same + 40]!r} "
        f"and the full text with {full[same : same + 40]!r}",
    )


def _system_check(bound: BoundTemplate) -> Check:
    try:
        text = bound.render([probes.LONG_SYSTEM, *probes.SHORT])
    except DataError as error:
        return Check("system", False, f"system messages are refused: {error}")
    if probes.LONG_SYSTEM["content"] in RenderedText(text):
        return Check("system", True, "system messages are printed")
    begun = "rmx begins the" in text.casefold()
    return Check("system", False, f"system messages are {'cut or changed' if begun else 'left out'}")


def _tools_check(bound: BoundTemplate, source: str) -> Check:
    if "tools" not in rewrite.variables(source):
        return Check("tools", False, "tools are left out of the text: the template does not know them")
    try:
        text = bound.render(probes.SHORT, [probes.TOOL])
    except DataError as error:
        return Check("tools", False, f"tools are refused: {error}")
    printed = "rmx_probe" in text
    return Check("tools", printed, "tools are printed" if printed else "tools are left out of the text")


def _control_check(source: str, added: set[str]) -> Check:
    """Markers that look like control tokens and are none for this tokenizer are read as ordinary text."""
    missing = sorted(rewrite.markers(source) - added)
    if missing:
        shown = ", ".join(missing[:6]) + (" ..." if len(missing) > 6 else "")
        return Check("control", False, f"not tokens of this tokenizer, so read as ordinary text: {shown}")
    return Check("control", True, "all its control tokens are tokens of this tokenizer")
