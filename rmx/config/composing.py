"""compose: groups, files and `key=value` overrides become one configuration, by Hydra, with all mistakes at once.

Hydra stops at the first mistake and never suggests anything. So each override is looked at alone first, the
bad ones are noted and left out, and what remains is composed; unknown keys are let through here, because
`check` knows the signatures and can say which key was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmx.config.checking import both_given, mistakes_in_node, mistakes_of
from rmx.config.overriding import (
    absent,
    into_nothing,
    lenient,
    option_values,
    parse_override,
    sweep_values,
)
from rmx.config.shipped import conf_folder, option_files
from rmx.config.targets import RMX_SWEEPER, unsafe_hydra_nodes
from rmx.errors import ConfigError, did_you_mean
from rmx.values import Mistake, raise_all

__all__ = ["Composer"]

# What conf/config.yaml says about Hydra, for sweeps over a root file that does not build on it (a run's run.yaml).
_SWEEP_DEFAULTS = (
    "hydra/sweeper=rmx",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
    "hydra.sweep.dir='outputs/sweeps/${now:%Y-%m-%d}-${now:%H-%M-%S}'",
)
_MOST_SWEEP_RUNS = 64  # runs of a sweep that are checked before it starts

WITHOUT_EFFECT = {  # keys of Hydra that other programs obey
    "hydra.run.dir": "output_dir is the run's folder, and Hydra makes none of its own; set output_dir=FOLDER",
}

ELSEWHERE = {  # what other tools call it
    ("parallel", "deepspeed"): "its stages are called zero2 and zero3;",
    ("parallel", "zero"): "its stages are called zero2 and zero3;",
    ("parallel", "fsdp2"): "it is called fsdp;",
    ("parallel", "dp"): "it is called ddp;",
} | {
    ("data", kind): f"{kind} files are read by data=jsonl data.path=FILE.{kind};"
    for kind in ("csv", "json", "parquet", "arrow")
}


class OwnFiles(SearchPathPlugin):
    """Puts the user's folder behind the shipped conf/ in Hydra's search path, while a Composer is made."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder under the name that Hydra gives to --config-dir."""
        if self.folder is not None:
            search_path.append("command-line", f"file://{self.folder.resolve()}")


@dataclass
class Composer:
    """Composes configurations from the shipped conf/ and, after it, one folder of the user's.

    Raises:
        ConfigError: the folder or the configuration in it does not exist, or a file there can never be chosen.
    """

    config_dir: Path | None = None
    config_name: str = "config"
    loader: ConfigLoader = field(init=False)
    _choices: dict[str, Any] = field(init=False, default_factory=dict)  # group -> option of the last composition
    _builds_on_shipped: bool = field(init=False, default=False)  # the root file has config.yaml's words on Hydra

    _sweeper: dict[str, Any] = field(init=False, default_factory=dict)  # the node of the last composition

    def __post_init__(self) -> None:
        if self.config_dir is not None and not self.config_dir.is_dir():
            raise ConfigError(f"--config-dir: there is no folder {self.config_dir}")
        with self.hydra():
            self.loader = GlobalHydra.instance().config_loader()
        self._refuse_hidden_files()
        self._refuse_foreign_search_path()

    @contextmanager
    def hydra(self) -> Iterator[Any]:
        """Give Hydra's application object, whose search path has the shipped files and then the user's.

        It is the global one meanwhile, as Hydra's plugins expect; an application of the caller's comes back after.
        """
        Plugins.instance().register(OwnFiles)
        running = GlobalHydra.instance()
        before, running.hydra, OwnFiles.folder = running.hydra, None, self.config_dir
        try:
            initialize_config_dir(str(conf_folder()), job_name="rmx", version_base="1.3")
            yield running.hydra
        finally:
            running.hydra, OwnFiles.folder = before, None

    def groups(self) -> dict[str, list[str]]:
        """Return each group's options, from the shipped folder and the user's."""
        return option_files(self.config_dir)

    def _load(self, name: str) -> Any:
        """Return the content of one file by its name in the search path, not composed; None where there is none."""
        sources = (source for source in self.loader.get_sources() if source.is_config(name))
        found = next(sources, None)
        return None if found is None else found.load_config(name).config

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig | None, list[Mistake]]:
        """Compose one run; return the configuration without `hydra:`, and what was wrong with the overrides.

        The configuration lacks the overrides that were wrong; it is None where nothing can be composed.
        """
        accepted, mistakes = self._accepted(overrides)
        lines = [str(item.input_line) if self._is_group(item) else lenient(item) for item in accepted]
        while True:
            try:
                cfg = self.loader.load_configuration(self.config_name, lines, RunMode.RUN)
                break
            except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
                culprit = next((line for line in lines if _is_about(error, line)), None)
                if culprit is None and isinstance(error, ConfigCompositionException):  # a defaults list in a file
                    culprit = next((line for line in lines if line.lstrip("+").startswith("experiment=")), None)
                mistakes.append(self._explained(error, culprit))
                if culprit is None:
                    return None, mistakes
                lines.remove(culprit)
        self._choices = dict(cfg.hydra.runtime.choices)
        hydra: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
        self._builds_on_shipped = hydra["output_subdir"] is None
        self._sweeper = hydra["sweeper"]
        mistakes += [Mistake(key, reason) for key, reason in unsafe_hydra_nodes(hydra)]
        OmegaConf.set_struct(cfg, False)  # unknown keys are for `check` to judge
        del cfg["hydra"]
        for override in accepted:
            mistakes += into_nothing(override, cfg)
        return cfg, mistakes

    def checked(self, overrides: Sequence[str]) -> tuple[DictConfig | None, list[Mistake]]:
        """Compose one run and check it: the mistakes of the overrides, then those of the values.

        The keys of a group whose option is unknown are not judged: they are for another option than the one composed.
        """
        cfg, mistakes = self.compose(overrides)
        unknown = tuple(f"{mistake.key}." for mistake in mistakes if mistake.key in self.groups())
        found = self.check(cfg, overrides) if cfg is not None else []
        return cfg, [*mistakes, *(mistake for mistake in found if not mistake.key.startswith(unknown))]

    def check(self, cfg: DictConfig, overrides: Sequence[str]) -> list[Mistake]:
        """Check what `compose` has just returned; mistakes that stand in a file say in which."""
        parsed = (parse_override(text, self.loader) for text in overrides)
        given = {override.key_or_group for override in parsed if isinstance(override, Override)}
        mistakes = []
        for mistake in mistakes_of(cfg, self.groups()):
            known = any(mistake.key == key or mistake.key.startswith((f"{key}.", f"{key}[")) for key in given)
            mistakes.append(mistake if known else self._located(mistake))
        return mistakes or both_given(cfg, given)

    def _located(self, mistake: Mistake) -> Mistake:
        """Add the file of the experiment or group option that sets the key; the shipped defaults need no name."""
        group, _, rest = mistake.key.partition(".")
        for file, key in (("experiment", mistake.key), (group, rest)) if rest else (("experiment", mistake.key),):
            option = self._choices.get(file)
            loaded = self._load(f"{file}/{option}") if isinstance(option, str) else None
            if not isinstance(loaded, DictConfig):
                continue
            nothing = object()
            if OmegaConf.select(loaded, key, default=nothing, throw_on_missing=False) is not nothing:
                return Mistake(mistake.key, f"{mistake.text} [in {file}/{option}.yaml]")
        return mistake

    def sweeper_mistakes(self) -> list[Mistake]:
        """Check the keys of rmx's sweeper in what was composed last; other sweepers check their own."""
        is_ours = self._sweeper.get("_target_") == RMX_SWEEPER
        return mistakes_in_node(self._sweeper, "hydra.sweeper") if is_ours else []

    def sweep_overrides(self, overrides: Sequence[str]) -> list[str]:
        """Return overrides as Hydra's own multirun takes them: `++` before keys that no YAML lists."""
        accepted, mistakes = self._accepted(overrides, sweeps=True)
        raise_all(mistakes)
        chosen = [str(item.input_line) for item in accepted if self._is_group(item) and not item.is_sweep_override()]
        cfg, mistakes = self.compose(chosen)
        raise_all(mistakes)
        lines = [] if self._builds_on_shipped else [line for line in _SWEEP_DEFAULTS if not _given(line, accepted)]
        for item in accepted:
            plain = self._is_group(item) or cfg is None or not absent(item, cfg)
            lines.append(str(item.input_line) if plain else lenient(item))
        return lines

    def single_runs(self, overrides: Sequence[str]) -> list[list[str]]:
        """Return override lists of single runs in which each value of a sweep occurs once, to check them early."""
        accepted, _ = self._accepted(overrides, sweeps=True)
        wrong = [text for text in overrides if isinstance(parse_override(text, self.loader), Mistake)]
        values = [found for found in map(sweep_values, accepted) if found]
        first = [choices[0] for choices in values]
        runs = [[*first, *wrong]]
        for place, choices in enumerate(values):
            runs += [[*first[:place], choice, *first[place + 1 :]] for choice in choices[1:]]
        return runs[:_MOST_SWEEP_RUNS]

    def _accepted(self, overrides: Sequence[str], sweeps: bool = False) -> tuple[list[Override], list[Mistake]]:
        """Look at each override alone: its syntax, and for a group the option it names."""
        accepted: list[Override] = []
        mistakes: list[Mistake] = []
        for text in overrides:
            override = parse_override(text, self.loader)
            if isinstance(override, Mistake):
                mistakes.append(override)
                continue
            several = override.is_sweep_override() and not sweeps
            mistake = _several_values(override) if several else self._group_mistake(override)
            if mistake is not None:
                mistakes.append(mistake)
            elif override.key_or_group != "experiment" or override.value() is not None:
                accepted.append(override)  # `experiment=null` asks for what is so already; Hydra has no word for it
        return accepted, mistakes

    def _is_group(self, override: Override) -> bool:
        group = override.key_or_group
        return bool(group) and any(source.is_group(group) for source in self.loader.get_sources())

    def _group_mistake(self, override: Override) -> Mistake | None:
        """Check the group and the options that a group override names; None for other overrides."""
        key = override.key_or_group
        if not key:
            return Mistake("", f"'{override.input_line}' is not key=value")
        if not self._is_group(override):
            if "/" not in key:
                return Mistake(key, WITHOUT_EFFECT[key]) if key in WITHOUT_EFFECT else None
            names = [*self.groups(), "hydra/launcher", "hydra/sweeper"]
            return Mistake(key, f"there is no such group; {did_you_mean(key, names) or 'groups: ' + ', '.join(names)}")
        options = self.loader.get_group_options(key, ObjectType.CONFIG)
        listed = f"options: {', '.join(options)}"
        for value in option_values(override):
            if value is None and key != "experiment":
                nothing = {"peft": "write peft=none; ", "callbacks": "write callbacks=[]; "}.get(key, "")
                return Mistake(key, f"null is not an option; {nothing}{listed}")
            if not isinstance(value, str | None):
                return Mistake(key, f"{value!r} is not the name of an option; {listed}")
            if value is not None and value not in options:
                hint = ELSEWHERE.get((key, value)) or did_you_mean(value, options)
                if not hint and key in {"model", "data", "template"}:
                    folder = "jsonl" if key == "data" else "hub" if key == "model" else ""
                    choice = f"{key}={folder} " if folder else ""
                    hint = f"for a file or hub id write {choice}{key}.path={value};"
                return Mistake(key, f"'{value}' is not an option; {hint + ' ' if hint else ''}{listed}")
        return None

    def _explained(self, error: Exception, culprit: str | None) -> Mistake:
        """Turn an exception of Hydra, OmegaConf or the YAML parser into a line."""
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            mark = error.problem_mark
            return Mistake(f"{mark.name}:{mark.line + 1}", f"not valid YAML: {error.problem}")
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(error).__name__]
        text = lines[0] if isinstance(cause, OmegaConfBaseException) else " ".join(lines)
        key = culprit.lstrip("+~").partition("=")[0] if culprit else ""
        place = f"{culprit}" if key == "experiment" else key
        if "@experiment." in text:
            return Mistake(place, "the first line of its file must be: # @package _global_")
        groups = self.groups()
        if f"override '{key}'. No match in the defaults list" in text and key in groups:
            return Mistake(place, f"{self.config_name}.yaml chooses no options; set single keys, {key}.x=..., instead")
        for name, options in groups.items():  # a defaults list that names an unknown option
            wrong = text.partition(f"Could not find '{name}/")[2].partition("'")[0]
            if wrong:
                hint = did_you_mean(wrong, options)
                return Mistake(place, f"{name} has no option '{wrong}'; {hint} options: {', '.join(options)}")
        wrong = text.partition("override '")[2].partition("'")[0]
        hint = did_you_mean(wrong, list(groups)) if wrong else ""
        return Mistake(place, f"{text}; {hint}" if hint else text)

    def _refuse_hidden_files(self) -> None:
        """A user's file of a shipped name would be ignored in silence: say so."""
        if self.config_dir is None:
            return
        mistakes = []
        for path in sorted((*self.config_dir.glob("*.yaml"), *self.config_dir.glob("*/*.yaml"))):
            relative = path.relative_to(self.config_dir)
            shipped = conf_folder() / relative
            if shipped.is_file() and not shipped.samefile(path):
                advice = "rename it" if len(relative.parts) > 1 else "rename it and choose it with --config-name"
                mistakes.append(Mistake(str(path), f"rmx ships a file of that name, which would win; {advice}"))
        raise_all(mistakes)

    def _refuse_foreign_search_path(self) -> None:
        """Check the primary file before Hydra uses it: `pkg://` search paths import Python packages."""
        try:
            loaded = self._load(self.config_name)
        except (yaml.YAMLError, OSError) as error:
            raise ConfigError(str(self._explained(error, None))) from error
        if loaded is None:
            names = sorted(path.stem for path in self.config_dir.glob("*.yaml")) if self.config_dir else []
            hint = did_you_mean(self.config_name, names) or f"there are: {', '.join([*names, 'config'])}"
            raise ConfigError(f"--config-name: there is no {self.config_name}.yaml; {hint}")
        if not isinstance(loaded, DictConfig):
            raise ConfigError(f"{self.config_name}.yaml: must hold keys and values")
        for entry in OmegaConf.select(loaded, "hydra.searchpath", default=None) or []:
            if str(entry).startswith("pkg://"):
                raise ConfigError(f"hydra.searchpath: '{entry}' in a file is not allowed; use --config-dir")


def _given(line: str, overrides: Sequence[Override]) -> bool:
    return any(override.key_or_group == line.partition("=")[0] for override in overrides)


def _several_values(override: Override) -> Mistake:
    key, value = override.key_or_group, str(override.input_line).partition("=")[2]
    return Mistake(key, f"{value} is several values: for several runs add -m, for one list write {key}=[{value}]")


def _is_about(error: BaseException, line: str) -> bool:
    """Tell whether an error message is about this override."""
    bare = line.lstrip("+~")
    texts = [str(error), str(error.__cause__ or "")]
    return any(bare in text or f"'{bare.partition('=')[0]}'" in text for text in texts)
