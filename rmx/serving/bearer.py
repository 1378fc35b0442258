"""The key that requests have to bring, if there is one: from a file or the environment, never from the command line."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from rmx.errors import ConfigError

__all__ = ["KEY_VARIABLE", "accepts", "bearer_key"]

KEY_VARIABLE = "RMX_SERVE_KEY"


def bearer_key(file: str | None) -> bytes | None:
    """The key of this server; None where everybody may ask.

    Args:
        file: its first line is the key; where None, the environment variable RMX_SERVE_KEY is.

    Raises:
        ConfigError: both are given, the file cannot be read, or the key is empty or not printable ASCII.
    """
    given = os.environ.get(KEY_VARIABLE)
    if file is None:
        if given is None:
            return None
        return _checked(given, KEY_VARIABLE)
    if given is not None:
        raise ConfigError(f"bearer_file: {KEY_VARIABLE} is set, too; give one of them")
    path = Path(file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"bearer_file: {path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        ) from None
    return _checked(lines[0] if lines else "", f"bearer_file: {path}")


def _checked(key: str, where: str) -> bytes:
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where}: the key has to be one word of printable ASCII characters")
    return key.encode("ascii")


def accepts(key: bytes | None, authorization: bytes | None) -> bool:
    """Whether a request with this Authorization header may pass; takes as long for a near miss as for a far one.

    >>> accepts(b"secret", b"Bearer secret"), accepts(b"secret", b"Bearer other"), accepts(b"secret", None)
    (True, False, False)
    >>> accepts(None, None)
    True
    """
    if key is None:
        return True
    scheme, _, token = (authorization or b"").strip().partition(b" ")
    return hmac.compare_digest(token.strip(), key) and scheme.lower() == b"bearer"
