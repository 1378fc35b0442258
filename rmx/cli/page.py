"""The `--help` page, drawn from the files of conf/ themselves; it imports neither Hydra nor a YAML parser."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path

__all__ = ["GROUPS", "help_page"]

GROUPS = {
    "model": "what is trained",
    "data": "preference pairs",
    "template": "how a conversation becomes text",
    "peft": "an adapter instead of all weights",
    "loss": "on chosen and rejected rewards",
    "trainer": "optimisation: the arguments of transformers.TrainingArguments",
    "parallel": "several processes: how they share the model",
    "launch": "where the processes of parallel.processes run",
    "plan": "what phases=[plan] plans for: bytes, FLOPs, hours, and what fits",
    "callbacks": "a list: callbacks=[...]",
    "experiment": "named runs that set several of these",
}

_EXAMPLES = """\
  rmx                                                          a whole run in two minutes: no GPU, no network
  rmx model=qwen2_5 data=hh_rlhf peft=lora                     LoRA on Anthropic's comparisons
  rmx data=jsonl data.path=pairs.jsonl trainer.learning_rate=2e-5 seed=1
  rmx phases=[eval,predict] model.path=outputs/.../model data=hh_rlhf
  rmx -m peft=none,lora trainer.learning_rate=1e-5,3e-5        a sweep: every combination
"""

_FLAGS = """\
  --cfg job [--resolve] [-p model]   show the configuration and check it, run nothing
  --config-dir FOLDER                files of your own: FOLDER/model/mine.yaml, then model=mine
  --config-name NAME                 another root file; a run folder repeats itself with
                                     --config-dir RUN --config-name run
  -m, --multirun                     several runs: a value per run, separated by commas
  --allow-target my_pairs.           let configuration files call Python of your own (also RMX_ALLOW_TARGETS)
  --trust-remote-code                let a model run the code in its repository
  --shell-completion install=bash    for tab completion: eval "$(rmx --shell-completion install=bash)"
  --info [config|defaults-tree|plugins|searchpath]   where values come from
  --version, --help
"""

_ROOT_LINE = re.compile(r"^(?P<key>[a-z]\w*): (?P<value>.*?) +# (?P<comment>.*)$")


def help_page(conf: Path, verbs: dict[str, str], config_dir: Path | None = None) -> str:
    """Return the page: groups with their options, root keys, flags, verbs and five commands.

    Args:
        conf: the shipped configuration folder.
        verbs: verb -> one line on what it does.
        config_dir: the user's own folder, whose options are listed too.
    """
    width = max(80, min(shutil.get_terminal_size((110, 24)).columns, 120))
    lines = ["Train, evaluate and use reward models.", "", "  rmx [group=option ...] [key=value ...] [flags]", ""]
    lines += ["Groups and their options, the default in brackets (what a group can set: rmx --cfg job -p trainer)"]
    chosen = _defaults(conf)
    for group, meaning in GROUPS.items():
        options = [f"[{name}]" if name == chosen.get(group) else name for name in _options(group, conf, config_dir)]
        lines += [f"  {group:<11} {meaning}", *_wrapped(" " * 15, " ".join(options), width)]
    lines += ["", "Keys of the run"]
    for line in (conf / "config.yaml").read_text(encoding="utf-8").splitlines():
        found = _ROOT_LINE.match(line)
        if found:
            setting = f"  {found['key']}={found['value'].replace(', ', ',')}"
            lines += _wrapped(f"{setting:<33} ", found["comment"], width)
    lines += ["", "Commands", *_EXAMPLES.splitlines(), "", "Verbs"]
    lines += [f"  rmx {verb:<10} {meaning}" for verb, meaning in verbs.items()]
    lines += ["", "Flags", *_FLAGS.splitlines()]
    return "\n".join(lines) + "\n"


def _options(group: str, *folders: Path | None) -> list[str]:
    names = {path.stem for folder in folders if folder is not None for path in (folder / group).glob("*.yaml")}
    return sorted(names)


def _defaults(conf: Path) -> dict[str, str]:
    text = (conf / "config.yaml").read_text(encoding="utf-8").partition("_self_")[0]
    return dict(re.findall(r"^  - (\w+): (\w+)", text, re.MULTILINE))


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=head + " ", subsequent_indent=" " * (len(head) + 1)) or [head]
