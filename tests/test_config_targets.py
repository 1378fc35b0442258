"""Which targets a configuration may call; nothing hostile is imported, let alone run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rmx.config import check, compose, instantiate
from rmx.config.library import LIBRARY_TARGETS
from rmx.config.targets import refusal, shipped_targets, unsafe_hydra_nodes
from rmx.errors import ConfigError

# Code execution and file writes that hydra's own blocklist lets through or once did, and aliases of them.
HOSTILE = """
os.system os.popen os.mkdir os.remove posix.system subprocess.run subprocess.Popen subprocess.check_output
builtins.eval builtins.exec builtins.open builtins.__import__ builtins.getattr pty.spawn runpy.run_path runpy.run_module
pickle.load pickle.loads dill.loads cloudpickle.loads joblib.load shelve.open marshal.loads ctypes.CDLL timeit.timeit
cProfile.run trace.Trace bdb.Bdb doctest.testfile code.interact code.InteractiveConsole importlib.import_module
importlib.machinery.SourceFileLoader shutil.rmtree shutil.copy shutil.copyfile pathlib.Path.write_text io.open
distutils.spawn.spawn setuptools._distutils.spawn.spawn pip.main pip._internal.main webbrowser.open
torch.load torch.serialization.load torch.hub.load torch.jit.load torch.save numpy.load numpy.fromfile
pandas.read_pickle pandas.eval sympy.sympify sympy.parsing.sympy_parser.parse_expr yaml.unsafe_load
transformers.dynamic_module_utils.get_class_in_module transformers.AutoModel.from_pretrained transformers.pipeline
transformers.TrainingArguments accelerate.utils.load accelerate.utils.other.load peft.PeftModel.from_pretrained
datasets.load_dataset hydra.utils.instantiate hydra.utils.call hydra.utils.get_method hydra.utils.get_object
functools.partial functools.reduce operator.methodcaller operator.attrgetter itertools.starmap
rmx.config.targets.os.system rmx.cli.main rmx.cli.sys.exit rmx.losses.torch.load rmx.losses._require rmx.losses.math.exp
rmx.models.push rmx.models.Adapter.__init__ rmx.workflow.Workflow.run rmx.config.instantiate rmx.files.write_lines
peft.LoraConfig.from_pretrained transformers.EarlyStoppingCallback.__init__.__globals__
""".split()  # noqa: SIM905


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_refused_unread(target: str) -> None:
    cfg = compose()
    cfg.model = {"_target_": target, "name": "x"}
    with pytest.raises(ConfigError, match=r"model: _target_ '.*' is not allowed"):
        check(cfg)
    with pytest.raises(ConfigError):
        instantiate(cfg)


@pytest.mark.parametrize(
    "target", [None, 3, True, [], "system", "os..system", " os.system", "rmx.losses.", "a b.c", ""]
)
def test_what_is_no_dotted_name_is_refused(target: object) -> None:
    assert "is not a dotted Python name" in refusal(target)


def test_shipped_targets_library_targets_and_losses_are_allowed() -> None:
    for target in [*shipped_targets(), *LIBRARY_TARGETS, "rmx.losses.focal"]:
        assert refusal(target) == ""


def test_a_near_miss_is_told_the_name() -> None:
    assert "did you mean rmx.models.Adapter?" in refusal("rmx.models.Adaptor")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module my_pairs that notes when it is imported."""
    path = tmp_path / "my_pairs.py"
    path.write_text(
        "import os\nfrom os import getcwd\nfrom pathlib import Path\n"
        "Path(__file__).with_name('imported').touch()\n\n\n"
        "class Template:\n    def __init__(self, name: str, strict: bool):\n        self.text = f'{name}/{strict}'\n"
        "\n\ndef template(name: str, strict: bool = True) -> Template:\n    return Template(name, strict)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_pairs", raising=False)
    return tmp_path


def test_own_code_needs_the_users_word(own_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed by environment only, and not imported before that; then checked as Python sees it, and called."""
    cfg = compose()
    cfg.template = {"_target_": "my_pairs.template", "name": "x"}
    with pytest.raises(ConfigError, match="is not allowed"):
        instantiate(cfg)
    assert not (own_module / "imported").exists()
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "my_pairs.")
    check(cfg)
    assert instantiate(cfg).template.text == "x/True"
    cfg.template = {"_target_": "my_pairs.template", "name": "x", "strikt": 1}
    with pytest.raises(ConfigError, match=r"template.strikt: there is no such key .* did you mean template.strict\?"):
        check(cfg)


def test_a_module_that_cannot_be_imported_is_one_message(own_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own error, with the line, and the key of the configuration that names it."""
    (own_module / "my_broken.py").write_text("\n\nraise RuntimeError('no licence')\n\n\ndef template(): ...\n")
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "my_broken.")
    cfg = compose()
    cfg.template = {"_target_": "my_broken.template"}
    with pytest.raises(ConfigError) as caught:
        instantiate(cfg)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("template: _target_ 'my_broken.template': the module my_broken cannot be imported: ")
    assert line.endswith("RuntimeError: no licence (" + str(own_module / "my_broken.py") + ":3)")


@pytest.mark.parametrize("target", ["my_pairs.os.system", "my_pairs.getcwd", "my_pairs.Path", "my_pairs.nope"])
def test_an_allowed_module_lends_its_name_to_nothing_else(
    own_module: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "my_pairs.")
    assert "is not defined in the module that you allowed" in refusal(target)


def test_an_object_without_a_home_is_its_modules_own(own_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_module / "my_losses.py").write_text(
        "import functools\nfrom rmx.losses import hinge\nwide = functools.partial(hinge, margin=3.0)\n"
    )
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "my_losses.")
    assert refusal("my_losses.wide") == ""
    assert "it leads to rmx.losses.hinge" in refusal("my_losses.hinge")


def test_an_exact_name_allows_that_name_only(own_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_ALLOW_TARGETS", "my_pairs.template, .")
    assert refusal("my_pairs.template") == ""
    assert "is not allowed" in refusal("my_pairs.other")
    assert "is not allowed" in refusal("os.system")


@pytest.mark.parametrize(
    "text", ["allow_targets: [os.]", "RMX_ALLOW_TARGETS: os.", "hydra: {job: {env_set: {RMX_ALLOW_TARGETS: os.}}}"]
)
def test_yaml_cannot_allow_targets(tmp_path: Path, text: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(
        f"# @package _global_\n{text}\nmodel: {{_target_: os.system, command: 'touch {tmp_path}/ran'}}\n"
    )
    with pytest.raises(ConfigError, match=r"'os.system' is not allowed"):
        instantiate(compose(["experiment=evil"], tmp_path))
    assert not (tmp_path / "ran").exists()


def test_positional_arguments_and_unread_nodes_are_refused() -> None:
    cfg = compose(["data=jsonl", "data.path=x"])
    cfg.template = {"_target_": "rmx.templates.Template", "_args_": ["x"], "_recursive_": False, "_partial_": "yes"}
    cfg.data.columns = {"_partial_": True}
    with pytest.raises(ConfigError) as caught:
        check(cfg)
    keys = {line.partition(":")[0] for line in str(caught.value).splitlines()}
    assert {"template._args_", "template._recursive_", "template._partial_", "data.columns._partial_"} <= keys


def test_hostile_targets_are_found_at_any_depth() -> None:
    cfg = compose(["data=jsonl", "data.path=x"])
    cfg.data.eval_sets = {"a": {"x": [{"_target_": "os.system", "command": "true"}]}}
    with pytest.raises(ConfigError, match=r"data.eval_sets.a.x\[0\]: _target_ 'os.system'"):
        check(cfg)


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"callbacks": {"x": {"_target_": "os.system"}}}, "hydra.callbacks.x._target_"),
        ({"sweeper": {"_target_": "os.system"}}, "hydra.sweeper._target_"),
        ({"sweeper": {"_target_": "hydra_plugins.os.system"}}, "hydra.sweeper._target_"),
        ({"launcher": {"_target_": "hydra._internal.core_plugins.basic_sweeper.log"}}, "hydra.launcher._target_"),
        (
            {"launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.os.system"}},
            "hydra.launcher._target_",
        ),
        ({"sweeper": {"sampler": {"_target_": "os.system"}}}, "hydra.sweeper.sampler._target_"),
        ({"sweeper": {"_args_": ["rm"]}}, "hydra.sweeper._args_[0]"),
        ({"job_logging": {"handlers": {"x": {"()": "os.system"}}}}, "hydra.job_logging.handlers.x.()"),
        ({"hydra_logging": {"handlers": {"x": {"class": "os.system"}}}}, "hydra.hydra_logging.handlers.x.class"),
        ({"job_logging": {"handlers": {"x": {"stream": "ext://os.environ"}}}}, "hydra.job_logging.handlers.x.stream"),
        ({"job": {"env_set": {"PYTHONPATH": "/evil"}}}, "hydra.job.env_set.PYTHONPATH"),
        ({"callbacks": "${evil}"}, "hydra.callbacks"),
        ({"callbacks": {"x": "${oc.create:'{_target_: os.system}'}"}}, "hydra.callbacks.x"),
        ({"sweeper": "${evil}"}, "hydra.sweeper"),
        ({"sweeper": {"_target_": "${evil}"}}, "hydra.sweeper._target_"),
        ({"launcher": {"params": "${oc.decode:x}"}}, "hydra.launcher.params"),
        ({"job": {"env_set": "${evil}"}}, "hydra.job.env_set"),
        (
            {"job_logging": {"handlers": {"x": {"stream": "${hydra.a}${hydra.b}"}}}},
            "hydra.job_logging.handlers.x.stream",
        ),
    ],
)
def test_hydra_nodes_that_would_run_code_are_found(node: dict[str, object], key: str) -> None:
    assert [found for found, _ in unsafe_hydra_nodes(node)] == [key]


def test_hydras_own_plugins_are_fine() -> None:
    names = ["basic_launcher.BasicLauncher", "basic_sweeper.BasicSweeper"]
    launcher, sweeper = ({"_target_": f"hydra._internal.core_plugins.{name}"} for name in names)
    assert unsafe_hydra_nodes({"launcher": launcher, "sweeper": sweeper}) == []
    launcher["submitit_folder"] = "${hydra.sweep.dir}/.submitit/%j"
    logs = {"handlers": {"file": {"class": "logging.FileHandler", "filename": "${hydra.runtime.output_dir}/x.log"}}}
    assert unsafe_hydra_nodes({"launcher": launcher, "job_logging": logs, "sweep": {"dir": "${model.name}"}}) == []


def test_a_callback_in_a_config_folder_does_not_run(tmp_path: Path) -> None:
    """The whole program, in both modes: the marker file never appears, whatever names the callback."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(
        "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: shutil.copyfile\n"
        f"      src: /etc/hostname\n      dst: {tmp_path}/ran\n"
    )
    (tmp_path / "root.yaml").write_text("defaults: [config, _self_]\nhydra:\n  searchpath: ['pkg://evil']\n")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for words in (["experiment=evil"], ["-m", "experiment=evil", "seed=1,2"], ["--config-name", "root"]):
        done = subprocess.run(
            [sys.executable, "-m", "rmx", "--config-dir", str(tmp_path), *words],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "not allowed" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()
