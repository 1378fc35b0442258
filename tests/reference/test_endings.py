"""Errors and exit codes of the reference against those of the code."""

from __future__ import annotations

from rmx import errors
from rmx.errors import Interrupted, RmxError
from rmx.reference.endings import EXIT_CODES, REMEDIES, error_entries, exit_code_entries
from rmx.sweep.runner import EXIT_FAILURES, EXIT_NONE_FINISHED, EXIT_STOPPED


def classes() -> list[type[RmxError]]:
    return [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]


def test_every_class_of_errors_has_an_entry_with_a_remedy() -> None:
    assert {entry.name for entry in error_entries()} == {kind.__name__ for kind in classes()} == set(REMEDIES)
    assert all(entry.meaning and entry.fact("what to do") for entry in error_entries())


def test_every_code_that_a_class_or_a_sweep_ends_with_is_there() -> None:
    ends = {kind.exit_code for kind in classes()} | {Interrupted(number).exit_code for number in (2, 10, 15)}
    ends |= {0, EXIT_NONE_FINISHED, EXIT_FAILURES, EXIT_STOPPED}
    assert ends == set(EXIT_CODES)
    assert [entry.name for entry in exit_code_entries()] == ["0", "1", "2", "3", "4", "75", "130", "143"]
