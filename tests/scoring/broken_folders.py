"""One sound reward model folder, and copies of it that are broken in one way each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_base
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from rmx.models import Adapter, RewardModelSource, read_artefact, save_artefact
from rmx.models.head import init_head
from rmx.models.loaded import LoadedModel
from rmx.scoring.examine.rows import ten_conversations
from rmx.templates import Template

CONTRACT = "reward_contract.json"
# Zephyr's turn markers, which are no tokens of this tokenizer.
MARKERS = (
    "{% for message in messages %}{{ '<|user|>\n' if message['role'] == 'user' else '<|assistant|>\n' }}"
    "{{ message['content'] + '<|im_end|>' }}{% endfor %}"
)


def trained(loaded: LoadedModel, steps: int = 12) -> LoadedModel:
    """Bradley-Terry on the five pairs of the ten rows, a few steps of AdamW: the head is then no fresh draw."""
    bound = Template("chatml").bind(loaded.tokenizer)
    rows = [loaded.tokenizer(bound.render(row), add_special_tokens=False)["input_ids"] for row in ten_conversations()]
    optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(steps):
        rewards = torch.stack([loaded.model(input_ids=torch.tensor([row])).logits[0, 0] for row in rows])
        loss = -torch.nn.functional.logsigmoid(rewards[0::2] - rewards[1::2]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loaded.model.eval()
    return loaded


def save(loaded: LoadedModel, folder: Path) -> Path:
    return save_artefact(
        loaded, folder, template=Template("chatml").bind(loaded.tokenizer), contract={"max_tokens": 2048}
    )


def sound(folder: Path) -> Path:
    return save(trained(RewardModelSource(name="tiny").load(seed=1)), folder)


# --- One change each ---


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def without_contract(folder: Path) -> None:
    """As saved by others: what the training knew is nowhere."""
    (folder / CONTRACT).unlink()


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], stem: str = "model") -> None:
    tensors = load_file(folder / f"{stem}.safetensors")
    change(tensors)
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def template(folder: Path, jinja: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = jinja
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)


def jinja_of(folder: Path) -> str:
    return (folder / "chat_template.jinja").read_text()


def pad_is_end(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", pad_token_id=tokenizer.eos_token_id)


def doubled_tokens(folder: Path) -> None:
    """ChatML writes <|im_start|> first, and so does this tokenizer, which calls it BOS."""
    _bos(folder, "<|im_start|>")


def consumers_differ(folder: Path) -> None:
    """The tokenizer begins texts with a token that the template does not write: some add it, some do not."""
    without_contract(folder)
    _bos(folder, "~")


def _bos(folder: Path, token: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = token
    number = tokenizer.convert_tokens_to_ids(token)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, number)]
    )
    tokenizer.save_pretrained(folder)


def head_untrained(folder: Path) -> None:
    loaded = read_artefact(folder).loaded
    init_head(loaded.model, "normal", seed=5)
    shutil.rmtree(folder)
    save(loaded, folder)


def head_half(folder: Path) -> None:
    without_contract(folder)
    weights(folder, lambda tensors: tensors.update({"score.weight": tensors["score.weight"].bfloat16()}))


def half_moves_scores(folder: Path) -> None:
    """All rewards near 3000, where bfloat16 moves in steps of 16, and the differences of the ten rows as before."""
    loaded = read_artefact(folder).loaded
    without_contract(folder)
    texts = [loaded.tokenizer.apply_chat_template(row, tokenize=False) for row in ten_conversations()]
    rows = [torch.tensor([loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in texts]
    with torch.no_grad():
        hidden = torch.stack([loaded.model.model(row).last_hidden_state[0, -1] for row in rows])
    middle = hidden.mean(0)
    basis = torch.linalg.svd(hidden - middle, full_matrices=False).Vh[:9]
    constant = middle - basis.T @ (basis @ middle)  # no row differs from another along it
    weights(folder, lambda tensors: tensors["score.weight"].add_(3000 * constant / (constant @ middle)))


def moving_text(folder: Path) -> None:
    without_contract(folder)
    template(folder, "{{ '<|im_start|>system\n' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + jinja_of(folder))


def template_tokens(folder: Path) -> None:
    without_contract(folder)
    template(folder, MARKERS)


def several_labels(folder: Path) -> None:
    weights(folder, lambda tensors: tensors.update({"score.weight": tensors["score.weight"].repeat(2, 1)}))
    edit(folder / "config.json", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})


def adapter(folder: Path, base: str | None) -> None:
    shutil.rmtree(folder)
    save(trained(RewardModelSource(name="base", path=base).load(adapter=Adapter(r=4), seed=1)), folder)


def adapter_without_head(folder: Path) -> None:
    adapter(folder, None)
    weights(
        folder,
        lambda tensors: [tensors.pop(name) for name in list(tensors) if ".score." in name],
        stem="adapter_model",
    )


def adapter_base_config(folder: Path) -> None:
    adapter(folder, str(save_base("qwen3", folder.parent, max_position_embeddings=4096)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(folder)


BROKEN: dict[str, Callable[[Path], None]] = {
    "head_missing": lambda folder: weights(folder, lambda tensors: tensors.pop("score.weight")),
    "adapter_without_head": adapter_without_head,
    "several_labels": several_labels,
    "pad_is_end": pad_is_end,
    "pad_differs": lambda folder: edit(folder / "config.json", pad_token_id=None),
    "head_half": head_half,
    "head_bias": lambda folder: weights(folder, lambda tensors: tensors.update({"score.bias": torch.tensor([0.5])})),
    "problem_type": lambda folder: edit(folder / "config.json", problem_type=None),
    "adapter_base_config": adapter_base_config,
    "template_missing": lambda folder: template(folder, None),
    "template_tokens": template_tokens,
    "template_changed": lambda folder: template(
        folder, jinja_of(folder).replace("message.role", "message.role.upper()")
    ),
    "moving_text": moving_text,
    "doubled_tokens": doubled_tokens,
    "shorter_limit": lambda folder: edit(folder / "tokenizer_config.json", model_max_length=1024),
    "non_finite": lambda folder: weights(
        folder, lambda tensors: tensors["model.norm.weight"].__setitem__(3, float("nan"))
    ),
    "head_changed": lambda folder: weights(folder, lambda tensors: tensors["score.weight"].mul_(1.5)),
    "head_untrained": head_untrained,
    "half_moves_scores": half_moves_scores,
    "consumers_differ": consumers_differ,
}
