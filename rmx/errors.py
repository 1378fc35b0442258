"""Everything that rmx raises on purpose, and the exit code each kind ends a run with.

    RmxError                 1    something went wrong that is no bug of the caller
    ├── InputError           2    the user's input is wrong: one message, no traceback
    │   ├── ConfigError      2    a key, a value or a target of the configuration
    │   ├── DataError        2    a file, a line or a row of preference data
    │   ├── ModelError       2    a model, tokenizer, template or adapter that cannot be used
    │   ├── OutputError      2    an output folder that is not writable, or a full disk
    │   └── CheckpointError  2    a checkpoint that cannot be resumed, or not with this config
    ├── NonFiniteError       1    a loss, gradient or reward is NaN or infinite
    ├── ArtefactError        1    the saved model does not give the scores that it was saved with
    ├── CallbackError        1    a callback of the user's raised an exception
    ├── RankError            1    another process of a distributed run has ended
    ├── Interrupted     143/130   a signal stopped the run after its checkpoint was saved
    ├── Pruned              75    a sweep stopped this run early
    └── TimeUp              75    trainer.stop_after ended the run after its checkpoint was saved

The message of an InputError names the config key or the file and line, the value received, what is
allowed and what to do.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Mapping

__all__ = [
    "MORE",
    "ArtefactError",
    "CallbackError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "Interrupted",
    "ModelError",
    "NonFiniteError",
    "OutputError",
    "Pruned",
    "RankError",
    "RmxError",
    "TimeUp",
    "counted",
    "did_you_mean",
    "first_line",
    "more_about",
    "none_of_the_first",
]


class RmxError(Exception):
    """Base of all errors that rmx raises on purpose; `exit_code` is what the command ends with."""

    exit_code = 1


class InputError(RmxError):
    """The user's input is wrong; the message alone is enough to put it right."""

    exit_code = 2


class ConfigError(InputError):
    """A mistake in the configuration: all mistakes are reported in one message, a line each."""


class DataError(InputError):
    """A mistake in preference data; the message names file and line, never the row's content."""


class ModelError(InputError):
    """A model, tokenizer, template or adapter that cannot be loaded or used as asked."""


class OutputError(InputError):
    """The output folder cannot be written to, or has no room left."""


class CheckpointError(InputError):
    """A checkpoint is damaged, missing, or belongs to another configuration or dataset."""


class NonFiniteError(RmxError):
    """Training met NaN or infinity; the message names the step and the ids of the rows."""


class ArtefactError(RmxError):
    """The saved model, loaded afresh, does not reproduce its scores, or its head was not trained."""


class CallbackError(RmxError):
    """A callback of the user's raised; the message names it, the event and the exception."""


class RankError(RmxError):
    """Another process of a distributed run has ended or does not answer; its own output says why."""


class Interrupted(RmxError):
    """A signal ended the run after a checkpoint; exit code 130 for Ctrl-C, 143 for SIGTERM and Slurm's SIGUSR1/2.

    >>> Interrupted(15, "checkpoint-40").exit_code
    143
    """

    def __init__(self, signal_number: int, checkpoint: str | None = None) -> None:
        saved = f"; saved {checkpoint}" if checkpoint else ""
        super().__init__(f"stopped by signal {signal_number}{saved}; the same command in this folder continues")
        self.signal_number = signal_number
        self.checkpoint = checkpoint
        self.exit_code = 130 if signal_number == signal.SIGINT else 143


class Pruned(RmxError):
    """A sweep asked this run to stop early; its checkpoint and metrics are complete up to here."""

    exit_code = 75


class TimeUp(RmxError):
    """The time of `trainer.stop_after` is up and a checkpoint is saved; 75 is EX_TEMPFAIL: run the command again."""

    exit_code = 75


MORE = "more: rmx explain"  # begins the last line of a message
# Their messages say all there is: what a signal or a sweep did, and which name was meant.
_NEED_NO_MORE = (RmxError, InputError, Interrupted, Pruned, TimeUp)


def more_about(error: RmxError) -> str:
    """Return the line that names where to read more of this kind of error; "" for kinds that need none.

    >>> more_about(DataError("pairs.jsonl:3: no chosen")), more_about(Pruned("step 3"))
    ('more: rmx explain DataError', '')
    """
    kind = type(error)
    return "" if kind in _NEED_NO_MORE or kind.__name__ not in __all__ else f"{MORE} {kind.__name__}"


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's error says, cut to 300 characters; its kind, where it says nothing.

    >>> first_line(ValueError("no such file\\n  at line 3")), first_line(KeyError())
    ('no such file', 'KeyError')
    >>> first_line(FileNotFoundError(2, "No such file or directory", "pairs.yaml"))
    'No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def counted(count: float, one: str, many: str = "") -> str:
    """Return a count with what is counted, in the singular where it is one.

    Args:
        count: how many.
        one: what is counted, and its verb where it has one.
        many: the same of several; by default `one` and an s.

    >>> counted(1, "row"), counted(2000, "row"), counted(0, "process", "processes")
    ('1 row', '2,000 rows', '0 processes')
    >>> counted(1, "pair is left out", "pairs are left out")
    '1 pair is left out'
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def none_of_the_first(rows: int) -> str:
    """Return the beginning of a sentence about rows that were looked at.

    >>> none_of_the_first(64), none_of_the_first(1)
    ('none of the first 64 rows', 'not even the first row')
    """
    return f"none of the first {rows:,} rows" if rows > 1 else "not even the first row"


def did_you_mean(word: str, options: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "did you mean x?" for the closest option, or "" when none is close.

    Args:
        word: what was written.
        options: what could have been meant; of a mapping, the keys are compared and the value is proposed.
        cutoff: likeness from 0 to 1 below which nothing is proposed (`difflib.get_close_matches`).

    >>> did_you_mean("lama3", ["tiny", "llama3"]), did_you_mean("rr", {"r": "peft.r"}), did_you_mean("xyz", ["tiny"])
    ('did you mean llama3?', 'did you mean peft.r?', '')
    """
    close = difflib.get_close_matches(word, list(options), 1, cutoff)
    if not close:
        return ""
    return f"did you mean {options[close[0]] if isinstance(options, Mapping) else close[0]}?"
