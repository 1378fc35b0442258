"""The engine inside what training puts around a model: adapters, DDP, saving, copying; and plain calls untouched."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from benchmarks.exactness import alone, gradients
from benchmarks.families import SHARED, WINDOW, Family, comparisons
from rmx.engine import Engine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
FAMILIES = {family.name: family for family in SHARED}


def lora(model, **options):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["score"], **options),
    )


def randomise_adapters(model):
    """LoRA starts with B = 0, where half of the gradients vanish."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "non-reentrant"])
def test_lora(checkpointing):
    model = lora(FAMILIES["Qwen3"].build())
    randomise_adapters(model)
    rows = comparisons()
    expected = alone(model, rows)
    expected_gradients = gradients(model, expected)
    assert any("lora_A" in name for name in expected_gradients)
    assert any("score" in name for name in expected_gradients)
    engine = Engine(model)
    if checkpointing is not None:
        model.train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    assert engine.encoding == "shared"
    rewards = engine.rewards(engine.collate(rows))
    torch.testing.assert_close(rewards, expected, rtol=2e-6, atol=2e-6)
    found = gradients(model, rewards)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (found[name] - gradient).abs().max() <= 2e-6 * gradient.abs().max(), name


def test_lora_added_after_the_engine_and_lora_in_bf16():
    base = FAMILIES["Llama"].build()
    engine = Engine(base)
    model = lora(base)
    rewards = engine.rewards(engine.collate(comparisons()), model=model)
    rewards.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    half = Engine(model, precision="bf16")
    assert half.rewards(half.collate(comparisons())).dtype == torch.float32


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_prompt_tuning_falls_back_and_scores_the_last_real_token(kind):
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    config = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind](
        task_type="SEQ_CLS", num_virtual_tokens=3
    )
    model = get_peft_model(FAMILIES["Llama"].build(), config).eval()
    engine = Engine(model)
    assert engine.encoding == "padded"
    assert "virtual tokens" in engine.reason
    rows = comparisons()
    together = engine.rewards(engine.collate(rows))
    single = torch.cat([engine.rewards(engine.collate([row])) for row in rows])
    torch.testing.assert_close(together, single, rtol=2e-6, atol=2e-6)
    assert together.std() > 0


def test_plain_calls_are_what_they_were():
    """Eager softcap and sinks included: a plain call finds the model's own attention, under the engine's name too."""
    for name in ("Llama", "Gemma 2, softcap, window", "gpt-oss, sinks, window", "GPT-2"):
        model = FAMILIES[name].build()
        ids = torch.randint(3, 90, (3, 20), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        ids[1, 12:], mask[1, 12:] = 0, 0
        before = model(input_ids=ids, attention_mask=mask, labels=torch.zeros(3))
        implementation = model.config._attn_implementation
        engine = Engine(model)
        assert engine.attention == f"rmx_{implementation}"
        after = model(input_ids=ids, attention_mask=mask, labels=torch.zeros(3))
        assert after.logits.equal(before.logits), name
        assert after.loss.equal(before.loss), name
        engine.detach()
        assert model.config._attn_implementation == implementation
        assert "forward" not in vars(model)


def test_plain_calls_may_be_checkpointed_too():
    """A checkpointed layer runs again in backward, after the forward call is over."""
    model = FAMILIES["Llama"].build().train()
    ids = torch.arange(5, 25)[None]
    expected = gradients(model, model(input_ids=ids).logits[0])
    Engine(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, gradient in gradients(model, model(input_ids=ids).logits[0]).items():
        assert gradient.equal(expected[name])


def test_saving_does_not_write_the_attention_name(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = FAMILIES["Mistral, window"].build()
    engine = Engine(model)
    rows = comparisons()
    rewards = engine.rewards(engine.collate(rows))
    model.save_pretrained(tmp_path)
    assert "rmx" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["sliding_window"] == WINDOW
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    again = Engine(loaded)
    assert again.rewards(again.collate(rows)).equal(rewards)


def test_two_engines_and_a_copy_of_one_model():
    model = FAMILIES["Llama"].build()
    rows = comparisons()
    first, second = Engine(model), Engine(model, encoding="separate")
    assert first.attention == second.attention == "rmx_sdpa"
    torch.testing.assert_close(first.rewards(first.collate(rows)), second.rewards(second.collate(rows)))
    clone = copy.deepcopy(model)
    torch.nn.init.zeros_(clone.score.weight)
    copied = Engine(clone)
    assert copied.rewards(copied.collate(rows)).abs().max() == 0
    assert first.rewards(first.collate(rows)).abs().max() > 0


def test_with_precision_shares_the_model():
    engine = Engine(FAMILIES["Llama"].build())
    half = engine.with_precision("bf16")
    assert engine.with_precision("fp32") is engine
    assert half.model is engine.model
    batch = engine.collate(comparisons())
    assert (half.rewards(batch) - engine.rewards(batch)).abs().max() > 0


def test_encoder_under_bf16_keeps_its_classifier_in_float32():
    from benchmarks.families import NOT_SHARED

    for name in ("BERT", "ModernBERT", "DeBERTa-v3"):
        family = next(f for f in NOT_SHARED if f.name == name)
        model = family.build()
        seen = []
        model.classifier.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].dtype))
        engine = Engine(model, precision="bf16")
        rewards = engine.rewards(engine.collate(comparisons()))
        assert rewards.dtype == torch.float32
        assert seen == [torch.float32], name
        torch.testing.assert_close(rewards, alone(model, comparisons()), rtol=0.05, atol=0.05)
        assert "forward" not in vars(model.base_model)


def test_signature_is_the_models_own():
    """PEFT and Trainer read the parameter names of `forward`."""
    import inspect

    model = FAMILIES["Llama"].build()
    before = inspect.signature(model.forward)
    Engine(model)
    assert inspect.signature(model.forward).parameters.keys() >= before.parameters.keys()


def _rank(rank: int, world: int, port: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    model = Family("Llama", "LlamaConfig").build()
    engine = Engine(model)
    wrapped = DistributedDataParallel(model)
    rows = comparisons()
    mine = rows[:1] if rank == 0 else rows[1:]  # 2 and 12 rewards
    (torch.tanh(engine.rewards(engine.collate(mine), wrapped)).sum() * world).backward()  # DDP takes the mean
    if rank == 0:
        torch.save({name: p.grad for name, p in model.named_parameters()}, f"{folder}/gradients.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ddp_ranks_with_unequal_work_give_the_gradient_of_one_process(tmp_path):
    import socket

    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (2, port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt")
    model = Family("Llama", "LlamaConfig").build()
    engine = Engine(model)
    torch.tanh(engine.rewards(engine.collate(comparisons()))).sum().backward()
    for name, parameter in model.named_parameters():
        assert (found[name] - parameter.grad).abs().max() <= 2e-6 * parameter.grad.abs().max(), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_autocast_keeps_no_second_copy_of_the_weights(checkpointing):
    """What autograd keeps beside activations: without checkpointing a bfloat16 copy of each product's weight, with it
    none. The cache of autocast, which autograd does not show, is off wherever a layer runs."""
    model = FAMILIES["Llama"].build().train()
    if checkpointing:
        model.activation_checkpointing_enable()
    cached, copies = [], set()
    shapes = {p.shape for p in model.model.layers.parameters() if p.dim() == 2}
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda *_: cached.append(torch.is_autocast_cache_enabled()))

    def keep(tensor):
        if tensor.dim() == 2 and tensor.dtype == torch.bfloat16 and {tensor.shape, tensor.mT.shape} & shapes:
            copies.add(tensor.data_ptr())
        return tensor

    engine = Engine(model, precision="bf16")
    cached.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.rewards(engine.collate(comparisons()))
    assert cached == [False] * len(model.model.layers)
    assert (len(copies) == 0) == checkpointing
