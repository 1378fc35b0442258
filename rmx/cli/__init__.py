"""The command line: `rmx` and `python -m rmx` are this module's `main`.

    verbs        rmx report FOLDER, ...      handed on before anything else is read
    flags        --help, --cfg job, ...      answered without importing torch
    a run        compose, check, instantiate, run
    several      -m: the same, under Hydra's sweeper and launcher

Errors that rmx raises on purpose are one message on stderr and an exit code (`rmx.errors`); anything else is
a bug, and shows its traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from rmx import __version__
from rmx.cli.flags import Arguments, parse
from rmx.errors import ConfigError, RmxError, did_you_mean, more_about
from rmx.launch import adopt, end_with, stop_with_parent
from rmx.redact import redact_text

__all__ = ["VERBS", "console", "main"]

log = logging.getLogger(__name__)

# verb -> (its main function, one line for --help)
VERBS = {
    "report": ("rmx.cli.report:main", "FOLDER...   draw report.html again; several runs are compared"),
    "score": ("rmx.cli.score:main", "model=... input=ROWS output=SCORES   score a file of rows; see rmx score --help"),
    "serve": ("rmx.cli.serve:main", "model=... port=8000   answer reward requests over HTTP; see rmx serve --help"),
    "watch": ("rmx.cli.watch:main", "FOLDER      what the runs below a folder are doing now"),
    "bench": ("rmx.cli.bench:main", "model=... suite=... data=...   a public benchmark, with intervals"),
    "verify": (
        "rmx.cli.verifying:main",
        "FOLDER [--json]   the known traps of a reward model; who scores what with it",
    ),
    "explain": ("rmx.reference.explain:main", "NAME...     what a key, metric, file, error, exit code or verb is"),
    "import": (
        "rmx.cli.importing:main",
        "llamafactory|trl|openrlhf ...   another trainer's command or file as an rmx command",
    ),
    "export": (
        "rmx.cli.exporting:main",
        "MODEL --format merged|openrlhf|llamafactory|calibrated|int8 OUT   write it as another program reads it",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 wrong input, 1 a bug, 75, 130, 143 (`rmx.errors`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    stop_with_parent()
    try:
        adopt()  # started by srun or mpirun, it is a rank from here on
        return _dispatch(words)
    except RmxError as error:
        end_with(message_of(error), error, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt as error:
        end_with("rmx: interrupted\n", error, 130)
        return 130
    except BrokenPipeError:  # `rmx --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the door: nothing lies above it that could tell the user
        message = redact_text(
            f"{traceback.format_exc()}rmx: {type(error).__name__}: {error}: a bug in rmx {__version__}, not a "
            "mistake of yours. Please report it with the lines above, the command, and the run folder's run.log "
            "and environment.json.\n"
        )
        end_with(message, error, 1)
        return 1


def console() -> None:
    """The entry point of `rmx` and of `python -m rmx`: both find Python files of the current folder."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import which kernels a CPU lacks
    sys.exit(main())


def message_of(error: RmxError) -> str:
    """Return what a user reads of an error: a line, or a headline and a line per mistake; then where to read more."""
    lines = str(error).splitlines()
    said = [f"rmx: {error}"]
    if isinstance(error, ConfigError) and len(lines) > 1:
        said = [f"rmx: {len(lines)} mistakes in the configuration", *(f"  {line}" for line in lines)]
    return "".join(f"{line}\n" for line in [*said, more_about(error)] if line)


def _dispatch(words: list[str]) -> int:
    if words and words[0] in VERBS:
        module, _, name = VERBS[words[0]][0].partition(":")
        code = getattr(import_module(module), name)(words[1:])
        return int(code or 0)
    if words and (hint := did_you_mean(words[0], list(VERBS), 0.7)):
        raise ConfigError(f"'{words[0]}' is not key=value and no verb of rmx; {hint}")
    arguments = parse(words)
    if arguments.version:
        sys.stdout.write(f"rmx {__version__}\n")
        return 0
    if arguments.help:
        return _help(arguments)
    # Hydra takes a third of a second to import, so everything that needs it is beyond this line.
    from rmx.cli import runs

    if arguments.shell_completion or arguments.info or arguments.cfg in {"hydra", "all"}:
        return runs.ask_hydra(arguments)
    if arguments.cfg:
        return runs.print_config(arguments)
    return runs.sweep(arguments) if arguments.multirun else runs.run(arguments)


def _help(arguments: Arguments) -> int:
    from rmx.cli.page import help_page
    from rmx.config.shipped import conf_folder

    verbs = {verb: meaning for verb, (_, meaning) in VERBS.items()}
    sys.stdout.write(help_page(conf_folder(), verbs, arguments.config_dir))
    return 0
