"""The command line: exit codes, messages, flags, verbs, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rmx.cli
from rmx import __version__
from rmx.cli import main
from rmx.cli.flags import parse
from rmx.cli.page import GROUPS
from rmx.config.signatures import import_name
from rmx.errors import ConfigError

OWN_RUN = """
import sys
from dataclasses import dataclass
from rmx import errors

@dataclass
class Run:
    ends: str
    seed: int = 0
    output_dir: str | None = None
    group: str | None = None

    def run(self):
        print("run", self.seed, self.output_dir, flush=True)
        endings = {"well": None, "data": errors.DataError("pairs.jsonl:3: no chosen"), "bug": RuntimeError("oh"),
                   "pruned": errors.Pruned("step 3"), "ctrl-c": KeyboardInterrupt(), "term": errors.Interrupted(15)}
        if self.seed == 13 or endings[self.ends] is not None:
            raise endings[self.ends] or errors.DataError("thirteen")
        return {}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a root configuration whose target ends as it is told to."""
    (tmp_path / "own_run.py").write_text(OWN_RUN)
    (tmp_path / "own.yaml").write_text("_target_: own_run.Run\nends: well\nseed: 0\noutput_dir: null\ngroup: null\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_run", raising=False)
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "own_run.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(own: Path, *words: str) -> list[str]:
    return ["--config-dir", str(own), "--config-name", "own", *words]


def in_a_process(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rmx", *words],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "code", "message"),
    [
        ("well", 0, ""),
        ("data", 2, "rmx: pairs.jsonl:3: no chosen\nmore: rmx explain DataError\n"),
        ("pruned", 75, "rmx: step 3\n"),
        ("term", 143, "rmx: stopped by signal 15; the same command in this folder continues\n"),
        ("ctrl-c", 130, "rmx: interrupted\n"),
    ],
)
def test_exit_codes(own: Path, capsys: pytest.CaptureFixture[str], ends: str, code: int, message: str) -> None:
    assert main(command(own, f"ends={ends}")) == code
    assert capsys.readouterr().err == message


def test_a_bug_shows_its_traceback_and_how_to_report_it(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(own, "ends=bug")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and "own_run.py" in "".join(lines)
    assert lines[-1].startswith(f"rmx: RuntimeError: oh: a bug in rmx {__version__}") and "report" in lines[-1]


def test_one_mistake_is_one_line_and_several_have_a_headline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=lama3"]) == 2
    one = capsys.readouterr()
    first, *rest = one.err.splitlines()
    assert first.startswith("rmx: model: 'lama3' is not an option; did you mean llama3?")
    assert rest == ["more: rmx explain ConfigError"]
    assert main(["model=lama3", "seed=x"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "rmx: 2 mistakes in the configuration"
    assert one.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--cfg", "job", "--resolve", "callbacks=[early_stopping]", "loss=hinge", "peft=dora", "model=gpt2"],
        ["model=lama3", "trainer.lerning_rate=3", "trainer.learning_rate=abc", "data.on_bad_row=1"],
        ["report", "--nope"],
        ["explain", "trainer.learning_rate", "eval_accuracy", "DataError", "75", "peft=lora", "metrics.jsonl", "watch"],
    ],
)
def test_help_config_and_config_errors_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rmx.cli import main\n"
        f"try:\n    code = main({words!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'trl', 'wandb'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "imported" not in done.stderr
    assert done.returncode == (0 if words[0] in {"--help", "--cfg", "explain"} else 2), done.stderr
    assert not list(tmp_path.iterdir())


def test_help_names_every_group_option_key_and_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    for word in [*GROUPS, *rmx.cli.VERBS, "[tiny]", "llama3_2_1b", "hh_rlhf", "phases=", "resume_allow=", "-m"]:
        assert word in page
    assert len(page.splitlines()) < 90 and max(map(len, page.splitlines())) <= 120


def test_help_lists_options_of_ones_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine_is_here.yaml").touch()
    assert main(["--help", "--config-dir", str(tmp_path)]) == 0
    assert "mine_is_here" in capsys.readouterr().out


def test_cfg_job_prints_what_would_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_0123456789")
    assert main(["--cfg", "job", "seed=3", "project=hf_0123456789", "data.name=x${seed}"]) == 0
    text = capsys.readouterr().out
    assert "\nseed: 3\n" in text and "x${seed}" in text and "hf_0" not in text and "hydra" not in text
    assert main(["--cfg", "job", "--resolve", "-p", "data", "data.name=x${seed}"]) == 0
    assert "name: x42\n" in capsys.readouterr().out


def test_cfg_job_checks_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "data=jsonl"]) == 2
    shown = capsys.readouterr()
    assert "path: ???" in shown.out and shown.err.splitlines()[0] == "rmx: data.path: must be given: data.path=..."
    assert main(["--cfg", "job", "-p", "nope"]) == 2


def test_a_run_leaves_no_stray_folders(own: Path) -> None:
    before = {path.name for path in own.iterdir()}
    assert main(command(own)) == 0
    assert {path.name for path in own.iterdir()} - before <= {"__pycache__"}


def test_multirun_runs_every_job_though_one_fails(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra's own sweeper and launcher, in this process; rmx's sweeper has its own tests."""
    place = f"hydra.sweep.dir={own}/sweep"
    assert main(command(own, "-m", "hydra/sweeper=basic", place, "seed=1,13,2")) == 2
    shown = capsys.readouterr()
    jobs = [line.split() for line in shown.out.splitlines() if line.startswith("run ")]
    assert jobs == [["run", seed, str(own / "sweep" / place)] for seed, place in (("1", "0"), ("13", "1"), ("2", "2"))]
    assert "job 1 (seed=13) rmx: thirteen\n" in shown.err
    assert {path.name for path in own.iterdir()} <= {"own.yaml", "own_run.py", "sweep", "__pycache__"}


def test_multirun_checks_every_value_before_the_first_job(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(own, "-m", "seed=1,x,2", "nope=3")) == 2
    shown = capsys.readouterr()
    assert "run" not in shown.out
    assert "seed: 'x' is not an integer" in shown.err and "nope: there is no such group or key" in shown.err
    assert main(["-m", "model=tiny,lama3"]) == 2
    assert "did you mean llama3?" in capsys.readouterr().err
    assert main(["-m", "seed=1,2", "hydra.sweeper.n_jobs=-1", "hydra.sweeper.pruner=medain", "data.size=0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip().partition(":")[0] for line in lines[1:-1]] == [
        "data.size", "hydra.sweeper.pruner", "hydra.sweeper.n_jobs",
    ]  # fmt: skip
    assert main(["-m", "experiment=confirm"]) == 2
    assert "hydra.sweeper.confirm: '' is not text (not empty) or null" in capsys.readouterr().err
    assert not (own / "sweep").exists() and not (own / "multirun").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--moedl", "x"], "values are set as key=value"),
        (["--learning-rate=3"], "for example trainer.learning_rate=..."),
        (["--config-dri", "x"], "did you mean --config-dir?"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--config-dir"], "expected one argument"),
        (["--config-name", "nope"], "there is no nope.yaml"),
        (["-m", "hydra/launcher=jobs", "seed=1,2"], "hydra/launcher: 'jobs' is not an option"),
        (["hydra.job.nmae=x"], "hydra.job.nmae"),
        (
            ["hydra.run.dir=x"],
            "hydra.run.dir: output_dir is the run's folder, and Hydra makes none of its own",
        ),
        (["reprot", "x"], "'reprot' is not key=value and no verb of rmx; did you mean report?"),
        (["trainer.lr=1e-5"], "did you mean trainer.learning_rate?"),
        (["epochs=2"], "did you mean trainer.num_train_epochs?"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown


def test_flags_and_overrides_may_be_mixed() -> None:
    arguments = parse(["-m", "a=1", "--config-name", "x.yaml", "b=2"])
    assert (arguments.overrides, arguments.multirun, arguments.config_name) == (["a=1", "b=2"], True, "x")
    with pytest.raises(ConfigError):
        parse(["--experimental-rerun", "config.pickle"])  # Hydra's flag that reads a pickle


def test_permissions_become_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "one.")
    monkeypatch.setenv("RMX_TRUST_REMOTE_CODE", "0")
    parse(["--allow-target", "two.", "--allow-target=three.make", "--trust-remote-code"])
    assert os.environ["RMX_ALLOW_TARGETS"] == "one.,two.,three.make"
    assert os.environ["RMX_TRUST_REMOTE_CODE"] == "1"


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rmx {__version__}\n"
    assert main(["--shell-completion", "install=bash"]) == 0
    assert "complete -o nospace" in capsys.readouterr().out


def test_completion_offers_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "rmx model=llama3")
    monkeypatch.setattr(sys, "argv", ["rmx"])
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["model=llama3", "model=llama3_2_1b"]


def test_verbs_lead_to_functions() -> None:
    for place, _ in rmx.cli.VERBS.values():
        assert callable(import_name(place.replace(":", "."))), place


def test_a_verb_gets_the_rest_of_the_line(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "own_verb.py").write_text("def main(argv):\n    return len(argv)\n")
    monkeypatch.setitem(rmx.cli.VERBS, "count", ("own_verb:main", "counts"))
    assert main(["count", "a", "--b"]) == 2


def test_both_programs_find_python_of_the_current_folder(own: Path) -> None:
    """`python -m rmx` has the folder on its path; the console script adds it."""
    script = Path(sys.executable).with_name("rmx")
    programs = [[sys.executable, "-m", "rmx"], [str(script)]] if script.exists() else [[sys.executable, "-m", "rmx"]]
    for program in programs:
        done = subprocess.run(
            [*program, *command(own, "seed=4", "--allow-target", "own_run.")],
            cwd=own, capture_output=True, text=True, check=False, env={**os.environ, "RMX_ALLOW_TARGETS": ""},
        )  # fmt: skip
        assert (done.returncode, done.stdout.split()[:2]) == (0, ["run", "4"]), done.stderr
    refused = in_a_process(*command(own), cwd=own, RMX_ALLOW_TARGETS="")
    assert refused.returncode == 2 and "must have _target_: rmx.workflow.Workflow" in refused.stderr


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m rmx --help | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and done.stdout.startswith("Train, evaluate")
