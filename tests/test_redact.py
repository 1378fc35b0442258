"""Secrets leave nothing that is written: messages, arguments, tracebacks."""

from __future__ import annotations

import logging

import pytest

from rmx.redact import HIDDEN, environment_secrets, redact_text
from rmx.run.screen import Screen

SECRET = "planted-secret-0123456789"


def test_a_traceback_in_the_log_holds_no_secret(tmp_path, monkeypatch) -> None:
    """The secret stands in the exception's text alone: not in the message, not in its arguments."""
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    log = logging.getLogger("rmx.crash")
    with Screen(verbose=False, log_file=tmp_path / "run.log"):
        try:
            raise RuntimeError(f"403 for {SECRET}")
        except RuntimeError as error:
            log.error("crash", exc_info=error)
    written = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "RuntimeError: 403 for" in written  # the traceback is there ...
    assert SECRET not in written and HIDDEN in written  # ... without the secret


def test_the_screen_shows_no_secret_and_no_traceback(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    with Screen():
        try:
            raise RuntimeError("hidden")
        except RuntimeError:
            logging.getLogger("rmx.x").warning("login with %s failed", SECRET, exc_info=True)
    shown = capsys.readouterr().out
    assert f"login with {HIDDEN} failed" in shown and "Traceback" not in shown


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "OPENAIKEY", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "KEY"]
)
def test_names_of_secrets(name: str, monkeypatch) -> None:
    monkeypatch.setenv(name, SECRET)
    assert SECRET in environment_secrets()


@pytest.mark.parametrize("name", ["MONKEY_MODE", "TOKENIZERS_PARALLELISM", "KEYBOARD", "TURKEY", "KEYMAP"])
def test_innocent_names_replace_nothing(name: str, monkeypatch) -> None:
    """A variable that merely spells KEY or TOKEN once turned "eval accuracy" into "eval ***"."""
    monkeypatch.setenv(name, "accuracy")
    assert redact_text("eval accuracy 0.7") == "eval accuracy 0.7"
