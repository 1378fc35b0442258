"""Secrets taken out of text and mappings before they are written, logged or sent: by key name and by value."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["HIDDEN", "HidingFormatter", "is_secret_name", "redact", "redact_command", "redact_text"]

HIDDEN = "***"
_SHORTEST_SECRET = 8  # shorter environment values ("1", "true") stand in too many innocent places

# `token`, `hub_token`, `HF_TOKEN`, `api_key`, `wandbApiKey`, `password`; not `tokenizer`, `max_tokens`, `keep_end`
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:token|api_?key|access_?key|private_?key|key|secret|password|passwd|credentials?)(?:$|[_\-.])",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Token counts, token texts and token ids are no secrets.
_INNOCENT = re.compile(r"(?:^|_)(?:eos|bos|pad|unk|sep|cls|mask|scored|special|per|id|ids)(?:_|$)", re.IGNORECASE)
# Variables are named with less care than keys: DBPASSWORD, OPENAIKEY. MONKEY_MODE and TOKENIZERS_PARALLELISM hold none.
_SECRET_VARIABLE = re.compile(
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)S?(?:$|_)|(?:^|_)(?:\w*(?:API|ACCESS|PRIVATE|AI|AUTH))?KEY(?:$|_)",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/@:]+):([^\s/@]+)(?=@)")
_TOKEN_SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,})\b")


def is_secret_name(name: str) -> bool:
    """Tell whether a key of this name holds a secret.

    >>> [is_secret_name(name) for name in ("hub_token", "api_key", "max_tokens", "pad_token", "tokenizer")]
    [True, True, False, False, False]
    """
    spaced = _HUMP.sub("_", name)
    return bool(_SECRET_NAME.search(spaced)) and not _INNOCENT.search(spaced)


def environment_secrets() -> tuple[str, ...]:
    """Return the values of all *TOKEN*, *KEY*, *SECRET*, *PASSWORD* variables, longest first."""
    values = {
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET and not os.path.exists(value)
    }
    return tuple(sorted(values, key=len, reverse=True))


def redact_text(text: str, secrets: Iterable[str] | None = None) -> str:
    """Return `text` without the values of secret environment variables, passwords in URLs and well-known tokens.

    >>> redact_text("hf_abcdefgh is mine", ["hf_abcdefgh"])
    '*** is mine'
    >>> redact_text("https://me:hunter2@host/data.jsonl", [])
    'https://***@host/data.jsonl'
    """
    for secret in environment_secrets() if secrets is None else secrets:
        text = text.replace(secret, HIDDEN)
    return _TOKEN_SHAPES.sub(HIDDEN, _URL_PASSWORD.sub(HIDDEN, text))


def redact(value: Any, secrets: Iterable[str] | None = None) -> Any:
    """Return a copy of nested mappings and lists without secrets.

    >>> redact({"hub_token": "hf_1", "max_tokens": 8, "nested": [{"password": None}]}, [])
    {'hub_token': '***', 'max_tokens': 8, 'nested': [{'password': None}]}
    """
    known = environment_secrets() if secrets is None else tuple(secrets)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if is_secret_name(str(name)) and item not in (None, "") else redact(item, known)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, known) for item in value]
    return redact_text(value, known) if isinstance(value, str) else value


def redact_command(argv: Iterable[str]) -> list[str]:
    """Return a command line's arguments without the values of keys that hold secrets.

    >>> redact_command(["rmx", "seed=1", "+hub.token=abc", "data.max_tokens=99", "--api-key", "abc"])
    ['rmx', 'seed=1', '+hub.token=***', 'data.max_tokens=99', '--api-key', '***']
    """
    shown: list[str] = []
    hide_next = False
    for argument in argv:
        key, equals, _ = argument.partition("=")
        secret = is_secret_name(key.rsplit(".", 1)[-1].lstrip("+~-"))
        shown.append(HIDDEN if hide_next else f"{key}={HIDDEN}" if secret and equals else redact_text(argument))
        hide_next = secret and not equals and argument.startswith("--")
    return shown


class HidingFormatter(logging.Formatter):
    """A log formatter that takes secrets out of everything it writes: message, arguments, and tracebacks.

    >>> record = logging.LogRecord("rmx", logging.INFO, "f", 1, "at %s", ("https://me:hunter2@host",), None)
    >>> HidingFormatter("%(message)s").format(record)
    'at https://***@host'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of one record, without secrets."""
        return redact_text(super().format(record))
