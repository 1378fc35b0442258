"""What others make of the artefact: TRL's GRPO and RLOO, transformers' pipeline, plain peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_base
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM, pipeline

from rmx.models import Adapter, LoadedModel, RewardModelSource, save_artefact, tiny_config, tiny_tokenizer
from rmx.models.quiet import quiet

TEXTS = [
    "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\nFine.<|im_end|>",
    "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\nWhy do you want to know that?<|im_end|>",
]


def reward(loaded: LoadedModel, text: str) -> float:
    """Our score of one rendered text: alone, no padding, no added tokens."""
    ids = torch.tensor([loaded.tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        return loaded.model.eval()(input_ids=ids).logits.item()


def saved(folder: Path, template: Any, adapter: Adapter | None = None, path: Path | None = None) -> LoadedModel:
    source = RewardModelSource(name="rm", path=None if path is None else str(path))
    loaded = source.load(adapter=adapter, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    save_artefact(loaded, folder, template=template, contract={})
    return loaded


def test_pipeline_gives_the_raw_score(tmp_path: Path, template: Any) -> None:
    """problem_type=regression: no sigmoid, so scores above 1 and below 0 come through."""
    loaded = saved(tmp_path / "model", template)
    with torch.no_grad():
        loaded.head.weight.mul_(20.0)
    save_artefact(loaded, tmp_path / "model", template=template, contract={})
    pipe = pipeline("text-classification", model=str(tmp_path / "model"), device="cpu")
    results = pipe(TEXTS, batch_size=2)
    assert [result["label"] for result in results] == ["reward", "reward"]
    expected = [reward(loaded, text) for text in TEXTS]
    assert max(abs(value) for value in expected) > 1
    assert [result["score"] for result in results] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_does_not_matter(side: str, tmp_path: Path, template: Any) -> None:
    loaded = saved(tmp_path / "model", template)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", padding_side=side)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    inputs = tokenizer(TEXTS, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        got = model(**inputs).logits[:, 0].tolist()
    assert got == pytest.approx([reward(loaded, text) for text in TEXTS], abs=1e-4)


def test_peft_alone_loads_the_adapter(tmp_path: Path, template: Any) -> None:
    from peft import AutoPeftModelForSequenceClassification

    loaded = saved(tmp_path / "model", template, Adapter(r=4))
    with quiet():
        model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    ids = torch.tensor([loaded.tokenizer.encode(TEXTS[0], add_special_tokens=False)])
    with torch.no_grad():
        assert model.eval()(input_ids=ids).logits.item() == pytest.approx(reward(loaded, TEXTS[0]), abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_policy_step_with_trl_sees_our_scores(
    algorithm: str, kind: str, tmp_path: Path, template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reward_funcs=<folder>: TRL loads model and tokenizer itself; its rewards are ours for the same conversations."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    import trl
    from datasets import Dataset

    loaded = saved(tmp_path / "model", template, Adapter(r=4) if kind == "lora" else None)
    seen: list[tuple[Any, Any, torch.Tensor]] = []

    class Trainer(getattr(trl, f"{algorithm}Trainer")):  # type: ignore[misc]
        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
            rewards = super()._calculate_rewards(inputs, prompts, completions, ids)
            seen.append((prompts, completions, rewards))
            return rewards

    torch.manual_seed(0)
    policy = LlamaForCausalLM(tiny_config())
    settings = getattr(trl, f"{algorithm}Config")(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=6,
        max_steps=1,
        beta=0.0,  # no reference model
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    prompts = [[{"role": "user", "content": "How are you?"}], [{"role": "user", "content": "Name a colour."}]]
    trainer = Trainer(
        model=policy,
        reward_funcs=str(tmp_path / "model"),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    (prompts, completions, rewards), *_ = seen
    texts = [
        loaded.tokenizer.apply_chat_template(prompt + completion, tokenize=False, chat_template=template.jinja)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    assert len(texts) == 2 and all(text.endswith("<|im_end|>") for text in texts)
    assert rewards[:, 0].tolist() == pytest.approx([reward(loaded, text) for text in texts], abs=1e-5)


def test_padding_equal_to_eos_never_ships(tmp_path: Path, template: Any) -> None:
    """Qwen base pads with its end token; the artefact does not, so plain loading reads the last token."""
    loaded = saved(tmp_path / "model", template, path=save_base("qwen2", tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    ends = tokenizer.encode("a b<|endoftext|>", add_special_tokens=False)
    batch = torch.tensor([ends, [*ends[-2:], *[tokenizer.pad_token_id] * (len(ends) - 2)]])
    with torch.no_grad():
        got = model(input_ids=batch, attention_mask=(batch != tokenizer.pad_token_id).long()).logits[:, 0].tolist()
        hidden = loaded.model.eval().model(torch.tensor([ends])).last_hidden_state[0, -1]
    assert got[0] == pytest.approx(loaded.head(hidden).item(), abs=1e-5)
    assert got[1] == pytest.approx(reward(loaded, "b<|endoftext|>"), abs=1e-5)
