"""How a command ends: the classes of errors, with what to do, and the exit codes."""

from __future__ import annotations

from rmx import errors
from rmx.errors import Interrupted, RmxError
from rmx.reference.docstrings import first_paragraph
from rmx.reference.entries import ReferenceEntry

__all__ = ["EXIT_CODES", "REMEDIES", "error_entries", "exit_code_entries"]

# What to do about an error of each class, beside what its message says.
REMEDIES = {
    "RmxError": "Read the message; every class below it has an entry of its own.",
    "InputError": "Put right what the message names; nothing was trained, or what was saved before is untouched.",
    "ConfigError": "Each line names a key, the value given, and what is allowed. `rmx explain KEY` says what a key "
    "means, `rmx --cfg job ...` shows and checks the whole configuration and runs nothing.",
    "DataError": "The message names the file and the line. `rmx phases=[audit] data=...` looks at the data without a "
    "model; data.on_bad_row=skip leaves bad rows out and writes the reasons to rejects.jsonl; data.columns names "
    "columns, data.format the row shape (docs/columns.md).",
    "ModelError": "Check model.path and model.revision; gated repositories need their licence accepted and HF_TOKEN; "
    "models whose code is in their repository need --trust-remote-code; base models without a chat template need "
    "template=plain or another.",
    "OutputError": "Give another output_dir, wait for the other run in that folder, or free space "
    "(trainer.save_total_limit keeps fewer checkpoints). What was saved before is untouched: the same command goes on.",
    "CheckpointError": "resume=auto goes on from the newest whole checkpoint; resume=never starts anew; keys that may "
    "differ on purpose are named in resume_allow; or give another output_dir.",
    "NonFiniteError": "Lower trainer.learning_rate, raise trainer.warmup_steps, use trainer.precision=bf16 or fp32, "
    "and look at the rows that the message names. The last checkpoint is from before it.",
    "ArtefactError": "Where the message says that a head was never trained: train first, or give a finished reward "
    "model. Where model/ does not give its scores back: report it with the message, run.log and environment.json.",
    "CallbackError": "Mend the callback that the message names, or leave it out: callbacks=[].",
    "RankError": "Look for the message of the process that it names: that one says why. A process that waits too long "
    "ends after parallel.timeout_minutes. The same command goes on from the last checkpoint.",
    "Interrupted": "Give the same command in the same folder again: it goes on at the step where it stopped.",
    "TimeUp": "Give the same command in the same folder again: it goes on where trainer.stop_after ended it.",
    "Pruned": "Nothing is wrong: hydra.sweeper.pruner stopped a trial that fell behind; sweep.json has its numbers.",
}

# code → (what it means, what the caller of the command may do)
EXIT_CODES = {
    0: ("everything asked for was done", "go on"),
    1: (
        "a bug (with a traceback), a run that cannot go on (NonFiniteError, ArtefactError, CallbackError, "
        "RankError), or a sweep without a single finished trial",
        "read the message; do not simply start again",
    ),
    2: (
        "the input is wrong: configuration, data, model, output folder or checkpoint",
        "put it right; do not start again",
    ),
    3: ("a sweep has a winner, and some of its trials failed or were killed", "give the sweep's command again"),
    4: ("a sweep was ended early by hydra.sweeper.fail_fast or max_failures", "mend the cause; give the command again"),
    75: (
        "the time of trainer.stop_after is up and a checkpoint is saved (TimeUp); or a sweep stopped this run early "
        "(Pruned), whose numbers so far are complete",
        "after TimeUp, give the same command again",
    ),
    130: (
        "Ctrl-C (128 + SIGINT); a checkpoint was saved if training had begun",
        "give the same command again to continue",
    ),
    143: (
        "SIGTERM, SIGUSR1 or SIGUSR2 (128 + 15), as Slurm and Kubernetes send before they take a machine away; a "
        "checkpoint was saved if training had begun",
        "give the same command again to continue; requeue on this code",
    ),
}


def error_entries() -> list[ReferenceEntry]:
    """Return an entry for every class of errors that rmx raises on purpose."""
    found = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    entries = []
    for error in sorted(found, key=lambda kind: (len(kind.__mro__), kind.__name__)):
        parents = [kind.__name__ for kind in error.__mro__[1:] if issubclass(kind, RmxError)]
        facts = [("what to do", REMEDIES[error.__name__]), ("exit code", _codes(error)), ("is a", ", ".join(parents))]
        entries.append(
            ReferenceEntry("error", error.__name__, first_paragraph(error), tuple(fact for fact in facts if fact[1]))
        )
    return entries


def _codes(error: type[RmxError]) -> str:
    return "143 or 130" if error is Interrupted else str(error.exit_code)


def exit_code_entries() -> list[ReferenceEntry]:
    """Return an entry for every exit code."""
    return [
        ReferenceEntry("exit code", str(code), meaning, (("what to do", advice),), also=(f"exit {code}",))
        for code, (meaning, advice) in EXIT_CODES.items()
    ]
