"""What is wrong with a configuration, as lines: key, value received, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rmx.errors import ConfigError
from rmx.redact import HIDDEN, is_secret_name, redact_text

__all__ = ["Mistake", "did_you_mean", "raise_all", "shown"]

_LONGEST_VALUE = 60  # characters of a value that a message repeats


@dataclass(frozen=True)
class Mistake:
    """One thing to put right: the dotted key, and the rest of the sentence.

    >>> str(Mistake("seed", "'abc' is not an integer"))
    "seed: 'abc' is not an integer"
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


def raise_all(mistakes: Iterable[Mistake]) -> None:
    """Raise one ConfigError with all mistakes, a line each; return when there are none.

    Raises:
        ConfigError: there is at least one mistake.
    """
    lines = list(dict.fromkeys(str(mistake) for mistake in mistakes))
    if lines:
        raise ConfigError(redact_text("\n".join(lines)))


def shown(key: str, value: Any) -> str:
    """Return a value as a message may repeat it: short, and never a secret.

    >>> shown("trainer.hub_token", "hf_abc"), shown("seed", "abc")
    ('***', "'abc'")
    """
    if is_secret_name(key.rpartition(".")[2]):
        return HIDDEN
    if isinstance(value, dict):
        return "{...}"
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def did_you_mean(word: str, options: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "did you mean x?" for the closest option, or "".

    >>> did_you_mean("lama3", ["tiny", "llama3", "gpt2"])
    'did you mean llama3?'
    """
    close = difflib.get_close_matches(word, list(options), 1, cutoff)
    return f"did you mean {close[0]}?" if close else ""
