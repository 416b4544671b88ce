"""Model folders and adapters: opened, merged, or refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from calrec.config import ModelConfig
from calrec.finetune.tuning import add_adapters
from calrec.model import checkpoint
from calrec.model.step import base_model

IDS = torch.arange(5, 25)[None]


def lora(network: Any, **options: Any) -> Any:
    """An adapter as after training."""
    options = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    network = get_peft_model(network, LoraConfig(**options)).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                p.add_(torch.randn_like(p), alpha=0.1)
    return network


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def base(small: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.base, tmp_path / "base"))


def saved(base: Path, **options: Any) -> tuple[Path, torch.Tensor]:
    """An adapter's folder, and its logits."""
    network = lora(checkpoint.load(base)[0], **options)
    network.save_pretrained(base.parent / "adapter")
    return base.parent / "adapter", network(IDS).logits


# --- adapters that fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["norm"]}])
def test_an_adapter_is_merged_into_its_base(base: Path, options: dict[str, Any]):
    folder, logits = saved(base, **options)
    network, tokenizer = checkpoint.load(folder)
    assert torch.allclose(network(IDS).logits, logits, atol=1e-5)
    assert not torch.allclose(checkpoint.load(base)[0](IDS).logits, logits, atol=1e-2)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert tokenizer.get_vocab() == checkpoint.load(base)[1].get_vocab()
    checkpoint.save(network, tokenizer, base.parent / "merged")
    names = [set(load_file(f / "model.safetensors")) for f in (base, base.parent / "merged")]
    assert names[0] == names[1]


def test_our_own_adapters_can_be_a_base_model(small: SimpleNamespace, base: Path):
    add_adapters(checkpoint.load(base)[0], ModelConfig(tuning="lora", dora=True)).save_pretrained(base.parent / "a")
    made, _ = base_model(small.texts, base.parent / "m", base.parent / "t", ModelConfig(name=str(base.parent / "a")))
    assert made.counts["vocabulary"] == len(checkpoint.load(base)[1])
    ours, theirs = (checkpoint.load(f)[0](IDS).logits for f in (base.parent / "m", base))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_base_may_lie_beside_the_adapter(base: Path):
    folder, logits = saved(base)
    edited(folder, base_model_name_or_path="../base")
    assert torch.allclose(checkpoint.load(folder)[0](IDS).logits, logits, atol=1e-5)


def test_the_adapters_own_tokenizer_goes_first(base: Path):
    folder, _ = saved(base)
    tokenizer = checkpoint.load(base)[1]
    tokenizer.eos_token = "a"
    tokenizer.save_pretrained(folder)
    assert checkpoint.load(folder)[1].eos_token == "a"


def test_an_output_layer_that_was_trained_whole_is_kept_apart(base: Path):
    folder, logits = saved(base, modules_to_save=["lm_head"])
    network, tokenizer = checkpoint.load(folder)
    assert torch.allclose(network(IDS).logits, logits, atol=1e-5)
    checkpoint.save(network, tokenizer, base.parent / "merged")
    assert torch.allclose(checkpoint.load(base.parent / "merged")[0](IDS).logits, logits, atol=1e-5)


def test_an_adapter_and_its_base_by_name(base: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    cache = base.parent / "hub"
    for name, folder in (("somebody/base", base), ("somebody/adapter", saved(base)[0])):
        repository = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("0" * 40)
    edited(cache / "models--somebody--adapter/snapshots" / ("0" * 40), base_model_name_or_path="somebody/base")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    network, tokenizer = checkpoint.load_from_hub("somebody/adapter")
    assert torch.equal(network(IDS).logits, checkpoint.load(base.parent / "adapter")[0](IDS).logits)
    assert len(tokenizer) == len(checkpoint.load(base)[1])


# --- adapters that do not ---------------------------------------------------------------------------------------


def test_pickled_adapters_are_refused(base: Path):
    folder, _ = saved(base)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"only pickle weights \(adapter_model.bin\).*PeftModel.from_pretrained"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["/gone/base", "", None])
def test_a_base_that_is_not_there_is_named(base: Path, name: str | None, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = edited(saved(base)[0], base_model_name_or_path=name)
    message = rf"its base '{name or ''}' cannot be loaded: .*Edit base_model_name_or_path in .*adapter_config.json"
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder)


def test_an_adapter_of_an_adapter_is_refused(base: Path):
    folder = edited(saved(base)[0], base_model_name_or_path=".")
    with pytest.raises(ValueError, match=r"its base \. is an adapter itself; merge that one first"):
        checkpoint.load(folder)


def test_a_resized_vocabulary_is_refused_with_both_numbers(base: Path):
    network, tokenizer = checkpoint.load(base)
    rows = len(tokenizer)
    network.resize_token_embeddings(rows + 8)
    lora(network).save_pretrained(base.parent / "adapter", save_embedding_layers=True)
    message = rf"has {rows + 8} rows, its base {rows}: .*resize_token_embeddings\({rows + 8}\)"
    with pytest.raises(ValueError, match=message):
        checkpoint.load(base.parent / "adapter")


def test_a_larger_tokenizer_is_refused_with_both_numbers(base: Path):
    folder, _ = saved(base)
    tokenizer = checkpoint.load(base)[1]
    rows = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    for where in (folder, base):  # an adapter's, then a plain model's
        tokenizer.save_pretrained(where)
        with pytest.raises(
            ValueError, match=rf"has {rows + 1} entries but the model's embedding {rows} rows; take the"
        ):
            checkpoint.load(where)


def test_a_base_of_another_width_is_refused(small: SimpleNamespace, base: Path):
    folder, _ = saved(base)
    wider = ModelConfig(size="small", vocab_size=400)
    base_model(small.texts, base.parent / "wider", base.parent / "t", wider)
    with pytest.raises(ValueError, match=r"does not fit its base .*wider: .*size mismatch"):
        checkpoint.load(edited(folder, base_model_name_or_path=str(base.parent / "wider")))


def test_a_base_of_another_depth_is_refused(base: Path):
    folder, _ = saved(base)
    weights = load_file(folder / "adapter_model.safetensors")
    deeper = {k.replace("layers.1", "layers.2"): v.clone() for k, v in weights.items() if "layers.1" in k}
    save_file(weights | deeper, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"{len(deeper)} adapter weights are only in one of both, such as .*layers.2"):
        checkpoint.load(folder)


def test_an_adapter_on_shared_embeddings_is_refused(base: Path):
    folder, _ = saved(base, target_modules=["lm_head"])
    with pytest.raises(ValueError, match="merged, it gives other logits"):
        checkpoint.load(folder)


def test_other_kinds_of_adapters_are_refused(base: Path):
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    get_peft_model(checkpoint.load(base)[0], config).save_pretrained(base.parent / "adapter")
    with pytest.raises(ValueError, match="an adapter of type IA3 is not merged; only LORA is"):
        checkpoint.load(base.parent / "adapter")


def test_an_unreadable_adapter_configuration_is_refused(base: Path):
    folder, _ = saved(base)
    for text in ("{", "{}", '{"peft_type": "NEW"}'):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"adapter_config.json (cannot be loaded|is not)|is not merged"):
            checkpoint.load(folder)


# --- plain models -----------------------------------------------------------------------------------------------


def test_missing_weights_are_not_made_up(base: Path):
    weights = load_file(base / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are not in its files, such as \['model.norm.weight'\]"):
        checkpoint.load(base)


def test_no_pad_token_is_needed(small: SimpleNamespace, base: Path):
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": None}))
    base_model(small.texts, base.parent / "m", base.parent / "t", ModelConfig(name=str(base)))
    network, tokenizer = checkpoint.load(base.parent / "m")
    assert tokenizer.pad_token is None
    assert torch.equal(network(IDS).logits, checkpoint.load(small.base)[0](IDS).logits)
