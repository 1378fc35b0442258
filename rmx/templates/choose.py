"""Which chat template a run uses: a name, a Jinja text or a Jinja file. Nothing is loaded before `bind`."""

from __future__ import annotations

import datetime
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rmx.errors import ConfigError, ModelError, did_you_mean
from rmx.values import Share, refuse_wrong_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.templates.bind import BoundTemplate

__all__ = ["PINNED_DATE", "Template", "template_names"]

# Llama 3.2's template prints today's date; this is the day that its own text falls back to when it has no clock.
PINNED_DATE = "2024-07-26"

_FOLDER = Path(__file__).parent / "files"

# Families whose template is read from the files that trl ships, by the name people look for.
_TRL_FAMILIES = {
    "llama3": "llama3",
    "llama3_1": "llama3_1",
    "llama3_2": "llama3_2",
    "qwen": "qwen2_5",
    "qwen2_5": "qwen2_5",
    "qwen3": "qwen3",
    "gemma": "gemma3",
    "gemma3": "gemma3",
    "phi3": "phi3",
    "phi3_5": "phi3_5",
    "cohere": "cohere",
    "cohere2": "cohere2",
    "deepseekv3": "deepseekv3",
    "glm4moe": "glm4moe",
    "gptoss": "gptoss",
}


def template_names() -> list[str]:
    """All names that `template.name` takes, except the `trl/<file>` ones.

    >>> [name for name in template_names() if name in ("auto", "plain", "qwen")]
    ['auto', 'plain', 'qwen']
    """
    own = {file.stem for file in _FOLDER.glob("*.jinja")}
    return ["auto", *sorted(own | set(_TRL_FAMILIES))]


@lru_cache(maxsize=1)
def _trl_folder() -> Path | None:
    """Where trl keeps its chat templates; found without importing trl (that takes seconds)."""
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "chat_templates"
    return folder if folder.is_dir() else None


def _trl_names() -> list[str]:
    folder = _trl_folder()
    return sorted(f"trl/{file.stem}" for file in folder.glob("*.jinja")) if folder else []


@dataclass(frozen=True)
class Template:
    """How a conversation becomes text.

    Args:
        name: `auto` (the tokenizer's own), one of `template_names()`, or `trl/<file>` for any template file of trl.
        jinja: Jinja text that is used instead of a named one; `name` is then only a label.
        path: a file with Jinja text, likewise.
        date: the day, as YYYY-MM-DD, that a template which prints today's date prints in rmx. A reward must not
            depend on the day it is computed, so the clock is replaced by this constant in the saved template too.
        max_unprinted_fraction: the share of a set's comparisons above which the run stops when a part of their
            conversation (text of messages, tool calls, reasoning, tools) is not printed by the template.

    Raises:
        ConfigError: an unknown name, a malformed date, a share outside [0, 1], or both `jinja` and `path`.

    >>> Template("chatml").name
    'chatml'
    >>> Template("chatlm")
    Traceback (most recent call last):
    rmx.errors.ConfigError: template.name: 'chatlm' is not a template; did you mean chatml? ...
    """

    name: str = "auto"
    jinja: str | None = None
    path: str | None = None
    date: str = PINNED_DATE
    max_unprinted_fraction: Share = 0.05

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "template")
        if self.jinja is not None and self.path is not None:
            raise ConfigError("template.jinja and template.path are both given; keep one of them")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ConfigError(f"template.date: {self.date!r} is not a day written as YYYY-MM-DD") from None
        if self.jinja is None and self.path is None:
            self._check_name()

    def _check_name(self) -> None:
        known = template_names()
        if self.name in known or self.name in _trl_names():
            return
        hint = did_you_mean(self.name, known + _trl_names())
        raise ConfigError(
            f"template.name: {self.name!r} is not a template; {hint}{' ' * bool(hint)}allowed: {', '.join(known)}, "
            "trl/<file> for a template file of trl, or template.path=<a Jinja file>"
        )

    def source(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The Jinja text as it was chosen, before rmx makes it end at the scored token.

        Raises:
            ModelError: `auto` with a tokenizer that has no template.
            ConfigError: the file of `path` cannot be read.
        """
        if self.jinja is not None:
            return self.jinja
        if self.path is not None:
            return _read(Path(self.path).expanduser())
        if self.name == "auto":
            return _own_template(tokenizer)
        file = _FOLDER / f"{self.name}.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        folder = _trl_folder()
        if folder is None:
            raise ConfigError(f"template.name: {self.name!r} is read from trl, which has no chat_templates folder here")
        stem = _TRL_FAMILIES.get(self.name, self.name.removeprefix("trl/"))
        return (folder / f"{stem}.jinja").read_text(encoding="utf-8")

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> BoundTemplate:
        """Make the final Jinja for this tokenizer and check it. The tokenizer is not changed.

        Raises:
            ModelError: the template cannot be used with this tokenizer; the message says why.

        >>> from rmx.models.tiny import tiny_tokenizer
        >>> bound = Template("plain").bind(tiny_tokenizer())
        >>> bound.render([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
        '\\n\\nHuman: 2+2?\\n\\nAssistant: 4<|im_end|>'
        """
        from rmx.templates.bind import bind

        name = self.name
        if self.path is not None:
            name = Path(self.path).stem
        elif self.jinja is not None and name == "auto":
            name = "jinja"
        return bind(self.source(tokenizer), tokenizer, name=name, date=datetime.date.fromisoformat(self.date))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"template.path: cannot read {str(path)!r} as a UTF-8 Jinja file: {error}") from None


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    own = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise ModelError(
                f"template.name: the tokenizer has templates {', '.join(sorted(own))} and none is its default; "
                "save the one you want to a file and give it as template.path="
            )
        own = own["default"]
    if own:
        return own
    fits = _fitting(tokenizer)
    raise ModelError(
        "template=auto: this tokenizer has no chat template, as most base models do not. Choose one: "
        + (f"template={fits} (the tokenizer has its control tokens), " if fits else "")
        + "template=plain (Human/Assistant text, needs no new tokens; a good choice for base models), "
        + ", ".join(name for name in template_names() if name not in ("auto", "plain", fits))
        + ", or template.path=<a Jinja file>"
    )


def _fitting(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The named template whose control tokens this tokenizer has: that of the base model's own chat version."""
    from rmx.templates import rewrite

    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    for name in ("llama3", "gemma", "chatml", "mistral", "phi3", "cohere2", "deepseekv3"):
        markers = rewrite.markers(Template(name).source(tokenizer))
        if markers and markers <= added:
            return name
    return None
