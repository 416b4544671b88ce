"""Models that somebody else wrote, and what is wrong with them: refused in a sentence, before anything is run."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel

from calrec import artifacts
from calrec.finetune.step import finetune
from calrec.finetune.towers import layers, looks_ahead
from calrec.model import checkpoint
from calrec.model.loading import load_model
from tests.finetune.networks import PACKED, UNPACKED, made
from tests.finetune.test_training import STAGE
from tests.model import families

KERNEL = "kernels-community/flash-attn"


@pytest.fixture
def model(small: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.base, tmp_path / "model"))


def edited(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, r"code of its own \(auto_map\)"),
        ("config.json", {"text_config": {"auto_map": {}}}, r"code of its own \(auto_map\)"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, r"code of its own \(auto_map\)"),
        ("config.json", {"_attn_implementation": KERNEL}, f"code to be fetched .*= '{KERNEL}'"),
        ("config.json", {"attn_implementation": {"": f"{KERNEL}@main:f"}}, "code to be fetched"),
        ("config.json", {"_attn_implementation_internal": KERNEL}, "code to be fetched"),
        ("config.json", {"experts_implementation": "a/b"}, "code to be fetched"),
        ("config.json", {"vision_config": {"attn_implementation": "a/b"}}, "code to be fetched"),
        ("generation_config.json", {"attn_implementation": "a/b"}, "code to be fetched"),
        ("config.json", {"transformers_weights": "../else/model.safetensors"}, "names its own file of weights"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "quantised model, which cannot be trained"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.0.json"]}, "outside of the folder"),
        ("config.json", {"num_hidden_layers": -1}, "num_hidden_layers = -1 in its config.json makes an empty network"),
        ("config.json", {"num_hidden_layers": 0}, "num_hidden_layers = 0 .* empty network"),
        ("config.json", {"num_hidden_layers": 10**7}, r"num_hidden_layers = 10000000 .* but there are \d+ weights"),
        ("config.json", {"num_attention_heads": 0}, "model: .*config.json"),
        ("config.json", {"hidden_size": -64}, "model: .*config.json"),
        ("config.json", {"vocab_size": 0}, "vocab_size = 0 .* empty network"),
        ("config.json", {"num_hidden_layers": 3}, "weights are not in its files"),
        ("config.json", {"num_hidden_layers": 1}, r"weights in its files have no place in a LlamaForCausalLM, such as"),
        ("config.json", {"hidden_size": 128}, "model: .* cannot be loaded .* whose weights fit its config.json"),
        ("config.json", {"num_hidden_layers": "two"}, "model: its config.json cannot be loaded"),
        ("config.json", {"hidden_act": "import os"}, "model: it cannot be loaded .*import os"),
        ("config.json", {"rope_parameters": {"rope_type": "new"}}, "model: .* cannot be loaded"),
        ("config.json", {"model_type": "nothing"}, "model: its config.json cannot be loaded"),
        ("config.json", {"model_type": "vit"}, "causal language model"),
        ("config.json", {"_attn_implementation": "quick"}, "model: it cannot be loaded .*quick"),
        ("tokenizer_config.json", {"tokenizer_class": "EvilTokenizer", "eos_token": 7}, "model: its tokenizer"),
        ("tokenizer.json", {"model": {"type": "Nothing"}}, "model: its tokenizer cannot be loaded"),
    ],
)  # fmt: skip
def test_settings_that_mislead_are_refused(model: Path, name: str, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        checkpoint.load(edited(model, name, **changes))


@pytest.mark.parametrize("text", ["{", "[]", "7", "", "\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_files_that_are_no_json_objects_are_refused(model: Path, name: str, text: str):
    (model / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"model/{name} is not"):
        checkpoint.load(model)


# --- weights ----------------------------------------------------------------------------------------------------


def split(model: Path, **where: Any) -> Path:
    """The weights in a file of another name, behind an index."""
    (model / "model.safetensors").rename(model / "model-00001.safetensors")
    names = list(load_file(model / "model-00001.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001.safetensors") | where}
    return edited(model, "model.safetensors.index.json", **index)


def test_split_weights_are_loaded(small: SimpleNamespace, model: Path):
    ours, theirs = checkpoint.load(split(model))[0], checkpoint.load(small.base)[0]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/passwd", "weights.bin", "a\\b.safetensors", 7, None]
)
def test_an_index_that_leaves_its_folder_is_refused(small: SimpleNamespace, model: Path, name: Any):
    shutil.copytree(small.base, model.parent / "other")
    with pytest.raises(ValueError, match="which is no safetensors file of this folder"):
        checkpoint.load(split(model, **{"model.norm.weight": name}))


def test_an_index_of_files_that_are_not_there_is_refused(model: Path):
    with pytest.raises(ValueError, match=r"index.json names gone.safetensors, which is not there; copy it too"):
        checkpoint.load(split(model, **{"model.norm.weight": "gone.safetensors"}))
    with pytest.raises(ValueError, match="has no weight_map"):
        checkpoint.load(edited(model, "model.safetensors.index.json", weight_map={}))


def test_weights_that_nothing_reads_are_refused(model: Path):
    weights = load_file(model / "model.safetensors")
    save_file(weights | {"score.weight": torch.ones(2, 64)}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights in its files have no place .* such as \['score.weight'\]"):
        checkpoint.load(model)


@pytest.mark.parametrize("size", [0, 5, 300])
def test_damaged_weights_are_refused(model: Path, size: int):
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read .*; copy it again"):
        checkpoint.load(model)


def test_an_adapter_that_wants_a_module_imported_is_refused(model: Path):
    weights = {"base_model.model.x.lora_A.weight": torch.ones(1, 1)}
    adapter = edited(
        model, "adapter_config.json", peft_type="LORA", megatron_config={"a": 1}, megatron_core="antigravity"
    )
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"wants a module to be imported \(megatron_config\)"):
        checkpoint.load(adapter)


def test_a_name_of_the_hub_is_looked_at_as_a_folder_is(model: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    repository = model.parent / "hub/models--somebody--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    shutil.copytree(model, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(model.parent / "hub"))
    network, _ = checkpoint.load_from_hub("somebody/model")
    assert torch.equal(network.model.norm.weight, checkpoint.load(model)[0].model.norm.weight)
    edited(repository / "snapshots" / ("0" * 40), "config.json", _attn_implementation=KERNEL)
    with pytest.raises(ValueError, match="code to be fetched"):
        checkpoint.load_from_hub("somebody/model")


# --- architectures ----------------------------------------------------------------------------------------------


def bert(small: SimpleNamespace, folder: Path, decoder: bool) -> Path:
    """A base model whose layers lie one level deeper than others'."""
    shutil.copytree(small.base, folder)
    tokenizer = load_model(small.base, small.tokens, small.texts)[1]
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        is_decoder=decoder,
    )  # fmt: skip
    with artifacts.writing(folder) as out:
        checkpoint.save(BertLMHeadModel(config), tokenizer, out)
        artifacts.finish(out, artifacts.Manifest("model"))
    return folder


def test_a_decoder_whose_layers_lie_deeper_trains_like_any_other(small: SimpleNamespace, tmp_path: Path):
    base = bert(small, tmp_path / "base", decoder=True)
    assert len(layers(checkpoint.load(base)[0])) == 2
    done = finetune(small.texts, small.tokens, base, tmp_path / "m", STAGE, small.model)
    assert done is not None and done.counts["steps"] == 8
    first, last = (checkpoint.load(folder)[0].state_dict() for folder in (base, tmp_path / "m"))
    assert not torch.equal(
        first["bert.encoder.layer.1.output.dense.weight"], last["bert.encoder.layer.1.output.dense.weight"]
    )


def test_an_encoder_is_refused(small: SimpleNamespace, tmp_path: Path):
    base = bert(small, tmp_path / "base", decoder=False)
    with pytest.raises(ValueError, match="BertLMHeadModel lets a token see those after it.*is_decoder = true"):
        finetune(small.texts, small.tokens, base, tmp_path / "m", STAGE, small.model)


@pytest.mark.parametrize("family", [*PACKED, *UNPACKED])
def test_no_causal_network_looks_ahead(family: str):
    assert not looks_ahead(made(family))


@pytest.mark.long
def test_every_causal_family_trains_or_is_refused(capsys: pytest.CaptureFixture[str]):
    assert families.main([]) == 0, capsys.readouterr().out
