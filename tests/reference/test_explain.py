"""`rmx explain`: names of every kind, near misses, and how it ends."""

from __future__ import annotations

import pytest

from rmx.cli import VERBS, main
from rmx.reference.look_up import everything, look_up, near


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("trainer.learning_rate", ["key"]),
        ("trainer.learning_rate=2e-5", ["key"]),
        ("++trainer.learning_rate=2e-5", ["key"]),
        ("data.eval_sets.hard.path=x.jsonl", ["key", "key"]),  # data=jsonl, data=llamafactory
        ("learning_rate", ["key", "metric"]),
        ("seed", ["key", "key", "key", "key", "key", "key"]),  # of the run, data (3 kinds), sweeper; and a refused one
        ("peft", ["group"]),
        ("peft=lora", ["option"]),
        ("lora", ["option", "option"]),  # peft=lora, trainer=lora
        ("hydra.sweeper.n_trials", ["key"]),
        ("n_trials", ["key"]),
        ("eval_accuracy", ["metric"]),
        ("eval/accuracy", ["metric"]),
        ("eval_hard/accuracy", ["metric"]),
        ("accuracy", ["metric"]),
        ("metrics.jsonl", ["file"]),
        ("outputs/a-b/2026-01-01/plots/training_loss.svg", ["file"]),
        ("DataError", ["error"]),
        ("75", ["exit code"]),
        ("rmx.load", ["Python"]),
        ("load", ["Python"]),
        ("report", ["verb"]),
        ("dataerror", ["error"]),
        ("MFU", ["metric"]),
        ("ECE", ["metric"]),
        ("Calibration Error", ["metric"]),
        ("best_possible_accuracy", ["metric"]),
        ("truncated", ["metric"]),
        ("TFLOP/s", ["metric"]),
        ("unique tokens", ["metric"]),
        ("95% interval", ["metric", "metric"]),  # its lower and upper end
        ("half_moves_scores", ["trap"]),
        ("consumers_differ", ["trap"]),
        ("no_such_trap", []),
    ],
)
def test_what_a_name_means(name: str, kinds: list[str]) -> None:
    assert [entry.kind for entry in look_up(name)] == kinds


def test_every_entry_is_found_by_its_own_name_and_by_its_others() -> None:
    for entry in everything():
        for name in (entry.name, *entry.also):
            assert entry in look_up(name), (entry.kind, name)


def test_a_folder_is_what_is_in_it() -> None:
    assert {entry.name for entry in look_up("checkpoint-40")} == {entry.name for entry in look_up("run/checkpoints/")}
    assert "checkpoints/checkpoint-*/manifest.json" in {entry.name for entry in look_up("checkpoint-40")}
    assert {entry.section for entry in look_up("plots")} == {"run folder: plots"}


def test_every_verb_is_there() -> None:
    assert [entry.name for entry in everything() if entry.kind == "verb"] == list(VERBS)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("trainer.lerning_rate", "trainer.learning_rate"),
        ("lerning_rate", "trainer.learning_rate"),
        ("eval_acuracy", "eval_accuracy"),
        ("dataeror", "DataError"),
        ("metric.jsonl", "metrics.jsonl"),
        ("peft=lroa", "peft=lora"),
        ("data.max_token", "data.max_tokens"),
        ("generated_prediction.jsonl", "generated_predictions.jsonl"),
    ],
)
def test_near_misses_are_proposed(wrong: str, meant: str) -> None:
    assert look_up(wrong) == [] and meant in near(wrong)[:2]


def test_it_prints_and_ends_with_2_for_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    """What is known is printed all the same; there is no headline about a configuration."""
    assert main(["explain", "peft.r", "lerning_rate", "xyzzy"]) == 2
    shown = capsys.readouterr()
    assert shown.out.splitlines()[:2] == ["peft.r   (key)", "  rank of the update; 8 to 64, higher for large datasets"]
    assert shown.err.splitlines() == [
        "rmx: lerning_rate: nothing of rmx has this name; did you mean trainer.learning_rate or train/learning_rate?",
        "rmx: xyzzy: nothing of rmx has this name; rmx explain '' lists the names",
    ]


def test_without_a_name_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 2
    page = capsys.readouterr().out
    assert main(["explain", "--help"]) == 0
    assert capsys.readouterr().out == page and page.startswith("rmx explain NAME")


def test_of_an_empty_name_it_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Each name that it lists, options after their group, is one that it explains."""
    assert main(["explain", ""]) == 0
    page = capsys.readouterr().out
    parts = dict(part.split(":\n", 1) for part in page.strip().split("\n\n") if ":\n" in part)
    assert list(parts)[:3] == ["verbs", "groups of options (GROUP=OPTION)", "keys"]
    for heading, names in parts.items():
        listed = [name.strip() for name in names.replace("\n", " ").split(", ")]
        if heading.startswith("groups"):
            listed = [line.split("=")[0].strip() for line in names.splitlines() if "=" in line]
            assert "lora" in names
        assert listed and [name for name in listed if not look_up(name)] == []
    assert "trainer.learning_rate" in parts["keys"] and "trainer.fp16" not in parts["keys"]


def test_the_examples_of_its_help_page_work(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "--help"])
    names = [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("  rmx explain ")]
    assert len(names) == 8
    assert all(look_up(name) for name in names)


def test_a_verb_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "watch"]) == 0
    assert "--every SECONDS" in capsys.readouterr().out
