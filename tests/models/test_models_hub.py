from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fake_hub import COMMIT, FakeHub
from tiny_models import save_base

from rmx.errors import ModelError
from rmx.models import Adapter, RewardModelSource, push, read_artefact, save_artefact

# huggingface_hub 2.4 uploads LFS files in a way that its own HTTP client calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A hub on the loopback that this process talks to, with a cache of its own."""
    with FakeHub() as server:
        for module in (huggingface_hub.constants, huggingface_hub.hf_api, huggingface_hub.file_download):
            if hasattr(module, "ENDPOINT"):
                monkeypatch.setattr(module, "ENDPOINT", server.url)
        constants = huggingface_hub.constants
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


def test_push_makes_one_private_commit_of_the_artefact_alone(hub: FakeHub, tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={}, card="# card\n")
    (folder / "training_args.bin").write_bytes(b"secret")
    (folder / "optimizer.pt").write_bytes(b"state")
    url = push(folder, "me/rm", token="hf_test", message="First")
    assert url.endswith(f"/me/rm/commit/{COMMIT}")
    assert hub.repos[0].get("visibility", hub.repos[0].get("private")) in ("private", True) and hub.tokens == {
        "Bearer hf_test"
    }
    assert [commit["summary"] for commit in hub.commits] == ["First"]
    assert set(hub.files) == {path.name for path in folder.iterdir()} - {"training_args.bin", "optimizer.pt"}
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    copy = tmp_path / "downloaded"
    copy.mkdir()
    for name, content in hub.files.items():
        (copy / name).write_bytes(content)
    assert read_artefact(copy).loaded.head.weight.equal(loaded.head.weight)


def test_push_refusals(hub: FakeHub, tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    hub.refuse = 403
    with pytest.raises(
        ModelError, match=r"push to me/rm: the hub answered 403; the token may not write there.*complete"
    ):
        push(folder, "me/rm", token="hf_test")
    with pytest.raises(ModelError, match="is no repository id"):
        push(folder, "me/rm/x/", token="hf_test")
    with pytest.raises(ModelError, match="is no artefact"):
        push(tmp_path, "me/rm")
    adapter = RewardModelSource(name="tiny").load(adapter=Adapter(r=2))
    local = save_artefact(adapter, tmp_path / "adapter", template=template, contract={})
    with pytest.raises(ModelError, match=r"on this machine only.*peft.merge=true"):
        push(local, "me/rm")


def test_hub_ids_load_with_their_commit(hub: FakeHub, tmp_path: Path) -> None:
    hub.served["org/base"] = folder = save_base("qwen2", tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    loaded = RewardModelSource(name="q", path="org/base").load()
    assert (loaded.base_path, loaded.revision) == ("org/base", COMMIT)
    assert not any("pytorch_model" in request for request in hub.requests)
    hub.gated.add("org/base")  # the cache serves a pinned commit even so
    assert RewardModelSource(name="q", path="org/base", revision=COMMIT).load().revision == COMMIT


def test_adapter_on_a_hub_base_names_id_and_commit(hub: FakeHub, tmp_path: Path, template: Any) -> None:
    import json

    hub.served["org/base"] = save_base("llama", tmp_path)
    loaded = RewardModelSource(name="l", path="org/base").load(adapter=Adapter(r=2))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/base", COMMIT)
    assert not (folder / "base").exists()
    assert read_artefact(folder).loaded.base_path == "org/base"
    push(folder, "me/rm", token="hf_test")
    assert "adapter_model.safetensors" in hub.files


def test_messages_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add("meta-llama/Llama-3.1-8B")
    with pytest.raises(ModelError, match=r"is gated: accept its licence at https://huggingface.co/meta-llama"):
        RewardModelSource(name="g", path="meta-llama/Llama-3.1-8B").load()
    with pytest.raises(ModelError, match=r"neither a folder here .* nor a model on the hub that you may read"):
        RewardModelSource(name="t", path="org/typo").load()
    hub.served["org/base"] = save_base("qwen2", tmp_path)
    with pytest.raises(ModelError, match=r"has no revision 'v9'; check model.revision"):
        RewardModelSource(name="r", path="org/base", revision="v9").load()
    for file in hub.served["org/base"].glob("*.safetensors"):
        file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match=r"org/base has no \*\.safetensors.*opening them runs code"):
        RewardModelSource(name="r", path="org/base").load()


def test_no_network_fails_at_once_with_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.hf_api, "ENDPOINT", "http://127.0.0.1:1", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    with pytest.raises(ModelError) as caught:
        RewardModelSource(name="llama3", path="meta-llama/Llama-3.1-8B-Instruct").load()
    assert "the hub cannot be reached; run `hf download meta-llama/Llama-3.1-8B-Instruct`" in str(caught.value)
    assert "model=tiny, which needs none" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; unset it"):
        RewardModelSource(name="llama3", path="meta-llama/Llama-3.1-8B-Instruct").load()
    huggingface_hub.close_session()


def test_local_folders_that_are_none(tmp_path: Path) -> None:
    for path, message in {
        "./missing": "there is no folder ./missing",
        str(tmp_path): "is no model folder: it has neither config.json nor adapter_config.json",
        __file__: "is a file; give the folder",
    }.items():
        with pytest.raises(ModelError, match=message):
            RewardModelSource(name="x", path=path).locate()
    assert RewardModelSource(name="tiny").locate() is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="its model/ is one"):
        RewardModelSource(name="x", path=str(tmp_path)).load()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        RewardModelSource(name="x", path=str(tmp_path / "model")).load()
