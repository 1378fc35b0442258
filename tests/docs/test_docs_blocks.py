"""Documentation is code: Python blocks run, commands are composed, what a page shows is what is printed."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT, Block, blocks, matches, pages, rmx_words
from small_rewards import save_reward_model

from rmx.cli import VERBS
from rmx.cli.bench import BenchJob
from rmx.cli.flags import parse
from rmx.cli.words import from_words
from rmx.config.composing import Composer
from rmx.scoring.job import ScoreJob
from rmx.serving.server import ServeJob

PAGES = {str(page.relative_to(ROOT / "docs")): list(blocks(page)) for page in pages()}
WITH_PYTHON = [name for name, found in PAGES.items() if any(block.language == "python" for block in found)]
MODEL = Path("outputs/first/model")  # the finished model that pages speak of


def commands(found: list[Block]) -> list[tuple[Block, str, list[str]]]:
    """Every `rmx ...` of a page's bash and console blocks: block, command, words behind rmx."""
    return [
        (block, step.command, words)
        for block in found
        if block.language in {"bash", "console"}
        for step in block.steps
        if (words := rmx_words(step.command)) is not None
    ]


def runs(found: list[Block]) -> list[Block]:
    return [block for block in found if block.is_run]


WITH_COMMANDS = [name for name, found in PAGES.items() if commands(found)]
WITH_RUNS = [name for name, found in PAGES.items() if runs(found)]


@pytest.fixture(scope="session")
def finished_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def folder(
    tmp_path_factory: pytest.TempPathFactory, finished_model: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> Path:
    """A working folder with the files that the page names, and a finished model unless the page trains its own."""
    tmp_path = tmp_path_factory.mktemp("d")  # short: a long path would wrap in a box
    found = PAGES[request.node.callspec.params["name"]]
    for block in found:
        if block.title and block.language != "text":
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    trains = any(f"output_dir={MODEL.parent}" in step.command for block in runs(found) for step in block.steps)
    if not (trains and "slow" in request.keywords):
        shutil.copytree(finished_model, tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_blocks_run(name: str, folder: Path) -> None:
    """No block raises, no shown value differs, and no page passes without a block that ran or is marked."""
    assert any(block.language == "python" for block in PAGES[name])
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for block in PAGES[name]:
        if block.language == "python" and block.title is None and block.mark != "only shown":
            run_python(block, namespace)


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    if block.text.startswith(">>>"):
        test = doctest.DocTestParser().get_doctest(block.text, namespace, str(block), str(block.page), block.line)
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=said.append, clear_globs=False)
        namespace.update(test.globs)
        assert runner.failures == 0, "".join(said)
        return
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(None):
        exec(code, namespace)


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_are_composed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group, key, type and range of every word are right, unless the page shows the message that refuses them."""
    for variable in ("RMX_ALLOW_TARGETS", "RMX_TRUST_REMOTE_CODE"):
        monkeypatch.delenv(variable, raising=False)
    wrong = []
    for block, command, words in commands(PAGES[name]):
        shown = next(step.output for step in block.steps if step.command == command)
        refused = any(line.startswith("rmx: ") and "mistake" in line for line in shown)
        mistakes = mistakes_of(words)
        if bool(mistakes) != refused:
            wrong.append(f"{block}: {command}\n    " + "\n    ".join(mistakes or ["should be refused, and is not"]))
    assert wrong == [], "\n".join(wrong)


# What a key may need beside it: adapters have a rank, files have a path.
CONTEXTS = (
    ["data=jsonl", "data.path=rows.jsonl"], ["peft=lora"], ["data.path=rows", "data.dataset=pairs"],
    ["launch=slurm"], ["launch=ray"],
)  # fmt: skip
_VERBS = (ScoreJob, ServeJob, BenchJob)
NOT_OF_RUNS = {"key", "add_special_tokens", "num_labels", *(key for job in _VERBS for key in job.__dataclass_fields__)}


def test_keys_in_the_text_are_keys() -> None:
    """Every `key=value` between backticks is one that a run takes, alone or in one of the usual contexts.

    Words with different keys are composed together, since all mistakes come at once, each with its key in front.
    """
    left = words_in_the_text()
    assert len(left) > 30
    while left:
        together = {word.partition("=")[0]: word for word in left}
        singly = [[word] for word in together.values() if "." not in word.partition("=")[0]]
        for words in [[word for key, word in together.items() if "." in key], *singly]:
            flags = ["-m"] if any(word.startswith("hydra.") for word in words) else []
            wrong = words
            for context in CONTEXTS:
                mistakes = mistakes_of([*flags, *context, *words]) if wrong else []
                alone = len(words) == 1
                wrong = [w for w in wrong if any(alone or text.startswith(w.partition("=")[0]) for text in mistakes)]
            assert wrong == [], [f"{left[word]}: {word}" for word in wrong]
        left = {word: page for word, page in left.items() if word not in together.values()}


def words_in_the_text() -> dict[str, str]:
    """The `key=value` spans of all pages but the generated ones, with the page."""
    found: dict[str, str] = {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"^ *(`{3,})[^`]*$.*?^ *\1$", "", text, flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`([a-z_]+(?:[./]\w+)*=[^`\s]+)`", text):
            plain = "..." not in span and "name:" not in span and "," not in re.sub(r"\[.*\]", "", span)
            if plain and span.partition("=")[0] not in NOT_OF_RUNS and page.parent.name != "reference":
                found.setdefault(span, str(page.relative_to(ROOT)))
    return found


def mistakes_of(words: list[str]) -> list[str]:
    """What is wrong with the words behind `rmx`, nothing run."""
    if words and words[0] in VERBS:
        job = {"score": ScoreJob, "serve": ServeJob}.get(words[0])
        if job is not None and "--help" not in words:
            from_words(job, words[1:], words[0])
        return []
    arguments = parse(words)
    if arguments.help or arguments.version or arguments.info or arguments.shell_completion:
        return []
    composer = Composer(arguments.config_dir, arguments.config_name)
    if not arguments.multirun:
        return [str(mistake) for mistake in composer.checked(arguments.overrides)[1]]
    found = [mistake for single in composer.single_runs(arguments.overrides) for mistake in composer.checked(single)[1]]
    return [str(mistake) for mistake in dict.fromkeys(found)]


def test_every_kind_of_block_is_there() -> None:
    """The parametrized tests above are not empty, and a page cannot fall out of them unnoticed."""
    assert len(WITH_PYTHON) >= 5
    assert len(WITH_COMMANDS) >= 10
    assert len(WITH_RUNS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_RUNS)
def test_console_blocks_print_what_they_show(name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Blocks of a page one after another, in one folder, as a reader who follows it would."""
    environment = with_rmx(tmp_path_factory.mktemp("bin"))
    for block in runs(PAGES[name]):
        for step in block.steps:
            done = subprocess.run(
                ["bash", "-c", step.command], env=environment, cwd=folder, timeout=900, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            printed = done.stdout.replace(f"{folder}/", "").splitlines()  # pages show paths as their reader sees them
            vary = block.mark == "numbers vary"
            missing = matches(step.output, printed, vary) if step.output else None
            assert missing is None, f"{block}: {step.command}\nnot printed: {missing}\nprinted:\n{done.stdout}"


def with_rmx(folder: Path) -> dict[str, str]:
    """An environment in which `rmx` and `python` are this checkout's."""
    for name, words in (("rmx", "-m rmx"), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "120",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
