"""What decides between shared, flat and padded rows, and that deciding leaves no trace."""

from __future__ import annotations

import logging

import pytest
import torch

from benchmarks.families import NOT_SHARED, SHARED, SIZES, comparisons
from rmx.engine import Engine, applicability, varlen
from rmx.engine.applicability import why_not_rows
from rmx.engine.layout import Collator
from rmx.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
FAMILIES = {family.name: family for family in SHARED + NOT_SHARED}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Llama 4, chunked", "chunked_attention"),
        ("LFM2, convolution", "conv"),
        ("Qwen3-Next, linear attention", "takes no attention function"),
        ("Mamba", "takes no attention function"),
        ("BERT", "not causal"),
        ("ModernBERT", "not causal"),
        ("DeBERTa-v3", "takes no attention function"),
        ("GPT-J", "takes no attention function"),
        ("T5", "encoder-decoder"),
        ("Qwen2, bidirectional", "not causal"),
    ],
)
def test_static_rule_names_the_reason(name, reason):
    model = FAMILIES[name].build()
    assert reason in why_not_rows(model, model)
    engine = Engine(model)
    assert reason in engine.reason


@pytest.mark.parametrize("family", NOT_SHARED, ids=lambda family: family.name)
def test_insisting_on_sharing_is_an_error_where_it_is_not_exact(family):
    with pytest.raises(ConfigError, match=r"trainer.encoding: 'shared'.*allowed here: auto, separate"):
        Engine(family.build(), encoding="shared")


def test_the_probe_alone_catches_a_model_that_ignores_the_attention_function(monkeypatch):
    """A model that passes the static rule and still mixes the responses: its attention never sees the layout."""
    from transformers.models.llama.modeling_llama import LlamaAttention

    forward = LlamaAttention.forward

    def ignores(self, *args, rmx_layout=None, attention_mask=None, **kwargs):
        return forward(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", ignores)
    engine = Engine(FAMILIES["Llama"].build())
    assert engine.encoding == "padded"
    assert "probe" in engine.reason


def test_a_window_that_lives_in_the_mask_alone_is_refused():
    """The probe is shorter than the window of 200, so its numbers agree; the layers' arguments tell."""
    engine = Engine(FAMILIES["Qwen2-MoE, window in the mask alone"].build())
    assert engine.encoding == "padded"
    assert "sliding window does not reach" in engine.reason


def test_a_window_that_the_config_does_not_know_is_none():
    """Some Llama checkpoints carry a `sliding_window` that Llama never reads."""
    from benchmarks.families import Family

    assert Engine(Family("Llama", "LlamaConfig", {"sliding_window": 4096}).build()).encoding == "shared"


def test_the_probe_sees_through_a_head_of_zeros(monkeypatch):
    """It compares hidden states: a fresh head of zeros would make every reward equal, and every error zero."""
    model = FAMILIES["Llama"].build()
    torch.nn.init.zeros_(model.score.weight)
    assert Engine(model).encoding == "shared"
    found = applicability.probe(Engine(model), "shared")
    assert 0 <= found.states < 1e-5 and 0 <= found.gradients < 1e-5


def test_probing_leaves_random_state_and_modes_alone():
    """A submodule in evaluation mode inside a training model, as frozen layers are, stays so."""
    model = FAMILIES["Llama"].build().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Engine(model)
    assert torch.get_rng_state().equal(before)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_reason_is_logged_once(caplog):
    with caplog.at_level(logging.DEBUG, logger="rmx.engine"):
        Engine(FAMILIES["BERT"].build())
    assert [r.getMessage() for r in caplog.records] == ["Encoding: padded, because its attention is not causal"]


def test_separate_means_flat_rows_where_the_model_takes_them():
    assert Engine(FAMILIES["Llama"].build(), encoding="separate").encoding == "flat"
    assert Engine(FAMILIES["GPT-J"].build(), encoding="separate").encoding == "padded"


def test_a_wrong_layout_is_far_above_the_tolerance(monkeypatch):
    """The power of the probe: rows whose second response forgets its prefix miss by far more than 1e-4."""
    honest = Collator._row

    def forgetful(self, rows):
        batch = honest(self, rows)
        batch.layout.kv_index = None
        batch.layout.k_lens = batch.layout.q_lens
        return batch

    monkeypatch.setattr(Collator, "_row", forgetful)
    for name in ("Llama", "GPT-2", "gpt-oss, sinks, window"):
        engine = Engine(FAMILIES[name].build())
        assert engine.encoding == "padded", name


@pytest.mark.parametrize("encoding", ["auto", "separate"])
def test_a_kernel_with_a_wrong_backward_is_not_used(monkeypatch, encoding):
    """A kernel that is right forward and forgets the keys' gradient: only the probe's backward pass can tell."""
    monkeypatch.setattr(varlen, "candidates", lambda device, dtype: ["forgetful", "honest"])
    monkeypatch.setattr(varlen, "takes", lambda query, value, dropout: True)
    used = []

    def kernel(name, keep):
        def run(q, k, v, runs, scaling, reach):
            used.append(name)
            q, k, v = (t.transpose(0, 1)[None] for t in (q, k if keep else k.detach(), v))
            q_lens, k_lens = runs.cu_q.diff().tolist(), runs.cu_k.diff().tolist()
            out = []
            for a, b, c in zip(q.split(q_lens, 2), k.split(k_lens, 2), v.split(k_lens, 2), strict=True):
                mask = torch.ones(a.shape[2], b.shape[2], dtype=torch.bool).tril(b.shape[2] - a.shape[2])
                out.append(
                    torch.nn.functional.scaled_dot_product_attention(
                        a, b, c, attn_mask=mask, scale=scaling, enable_gqa=True
                    )
                )
            return torch.cat(out, 2)[0].transpose(0, 1)

        return run

    kernels = {"forgetful": kernel("forgetful", False), "honest": kernel("honest", True)}
    monkeypatch.setattr(varlen, "KERNELS", kernels)
    engine = Engine(FAMILIES["Llama"].build(), encoding=encoding)
    assert engine.kernel == "honest" and engine.encoding == ("shared" if encoding == "auto" else "flat")
    assert set(used) == {"forgetful", "honest"}
    engine.kernel = "forgetful"
    found = applicability.probe(engine, engine.encoding)
    assert found.states < 1e-5 and found.gradients > 0.02
    assert "changed the gradients" in found.failure(torch.float32)


def test_probing_computes_no_weight_gradient_and_works_without_gradients():
    model = FAMILIES["Llama"].build().requires_grad_(False)
    with torch.inference_mode():
        assert Engine(model).encoding == "shared"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_default_initialisation_blinds_the_probe(seed, monkeypatch):
    """Freshly initialised models (range 0.02) have weak attention; the tolerance must still tell right from wrong."""
    monkeypatch.setitem(SIZES, "initializer_range", 0.02)
    model = FAMILIES["Llama"].build(seed=seed)
    engine = Engine(model)
    good = applicability.probe(engine, "shared").states
    batch = Collator("shared")(comparisons())
    batch.layout.kv_index, batch.layout.k_lens = None, batch.layout.q_lens
    with torch.no_grad():
        wrong = engine.hidden(batch) - engine.hidden(Collator("flat")(comparisons()))
    assert good < 1e-5
    assert wrong.abs().max() > 1e-3
