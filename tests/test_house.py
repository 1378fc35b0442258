"""How the house is built, where a tool can tell: private names of libraries, sizes of functions, names of files.

Layers and circles are import-linter's business (`make check`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "rmx").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")])
LIBRARIES = {"accelerate", "hydra", "optuna", "peft", "torch", "transformers"}
LONGEST_FUNCTION = 60  # lines below its signature and docstring: what fits on a screen

# Private names of libraries that the product uses, of transformers (5.23 was read) and torch (2.13): no public ones
# say what they say. `test_private_names_still_mean_what_was_read` notices their change.
PRIVATE_NAMES = {
    "_attn_implementation": "the attention function that a model runs with",
    "_supports_attention_backend": "whether a model takes an attention function from outside",
    "_is_stateful": "whether a model carries a recurrent state from token to token",
    "_supports_sdpa": "whether a model runs with torch's scaled dot product attention",
    "_hf_peft_config_loaded": "whether save_pretrained looks for an adapter",
    "_dynamo": "how many graphs torch.compile has made, and the error at its limit (tests/test_compiled.py)",
}
NOT_PRIVATE = {"_replace", "_asdict", "_exit"}  # documented, in spite of their names: NamedTuple, os


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in FILES:
        yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def test_no_other_private_name_of_a_library_is_used() -> None:
    """`thing._name` on anything but self and cls, or `from library import _name`, is a private name of another."""
    found = []
    for file, tree in trees():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Attribute):
                own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
                names = [] if own else [node.attr]
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("rmx", "hydra_plugins")):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            private = [name for name in names if is_private(name) and name not in {*PRIVATE_NAMES, *NOT_PRIVATE}]
            found += [f"{file}:{node.lineno}: {name}" for name in private]  # type: ignore[attr-defined]
    assert found == [], "\n".join(found)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_still_mean_what_was_read() -> None:
    """A tiny Llama says what is known of it, and a Mamba that it is stateful."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification, MambaModel

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert type(model)._supports_sdpa is True
    assert type(model.base_model)._supports_attention_backend is True
    assert [type(model.base_model)._is_stateful, MambaModel._is_stateful] == [False, True]
    assert type(model)._hf_peft_config_loaded is False
    from torch._dynamo.exc import FailOnRecompileLimitHit
    from torch._dynamo.utils import counters

    assert issubclass(FailOnRecompileLimitHit, Exception) and isinstance(counters["stats"], Counter)
    assert len(PRIVATE_NAMES) == 6  # each is looked at above


def test_library_methods_that_start_with_an_underscore_are_not_overridden() -> None:
    """A class of ours below a class of a library defines no private method that the library's class has, too."""
    from importlib import import_module

    overridden = []
    for file in FILES:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module.endswith("__main__"):
            continue
        for name, item in vars(import_module(module)).items():
            if isinstance(item, type) and item.__module__ == module:
                foreign = [base for base in item.__mro__[1:] if base.__module__.partition(".")[0] in LIBRARIES]
                private = [key for key in vars(item) if is_private(key) and key != "_abc_impl"]
                overridden += [f"{module}.{name}.{key}" for key in private for base in foreign if key in vars(base)]
    assert overridden == [], "\n".join(overridden)


def test_functions_fit_on_a_screen() -> None:
    long = []
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > LONGEST_FUNCTION:
                    long.append(f"{file}:{node.lineno} {node.name}: {lines} lines")
    assert long == []


def test_no_two_files_have_one_name() -> None:
    names = Counter(file.name for file in FILES if not file.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_public_functions_or_classes_have_one_name() -> None:
    """Verbs of modules that are called by it (`main`, a lazy `__getattr__`) are the exception."""
    places: dict[str, list[str]] = {}
    for file, tree in trees():
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and node.name != "main"
            ):
                places.setdefault(node.name, []).append(str(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_contributing_has_a_phrase_for_every_name() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text[text.index("    rmx/") : text.index("Read six files")]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / "rmx").iterdir()]
    shown = [name for name in names if not name.startswith("_") and name != "py.typed"]
    assert [name for name in shown if name not in tree] == []
