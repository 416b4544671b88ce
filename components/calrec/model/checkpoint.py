"""Models as folders in Hugging Face format, or as PEFT adapters of one: safetensors only, no remote code."""

import json
from pathlib import Path
from typing import Any

from calrec.checks import check as require

ADAPTER = "adapter"
"""Folder inside a whole model's, with what was trained as an adapter of the base; the whole model is what is loaded."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."
"""Of a weight's name in an adapter."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_ADAPTER_FILES = ["adapter_*", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"]


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a local folder, in fp32; an adapter is merged into the base that it names.

    Raises:
        FileNotFoundError: no folder, or no config in it.
        ValueError: pickle weights, code of its own, missing weights, no tokenizer or one that does not fit, no
            end-of-text token; an adapter whose base is not there or of another shape.
    """
    folder = Path(folder)
    check(folder)
    _quiet()
    if (folder / ADAPTER_CONFIG).is_file():
        return _merged(folder)
    try:
        tokenizer = _tokenizer(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: its tokenizer cannot be loaded ({error}); save it with save_pretrained") from None
    require_end_token(tokenizer, str(folder))
    return _fitting(_network(folder), tokenizer, str(folder))


def load_from_hub(name: str, revision: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face name, fetched over the network or from its cache."""
    from huggingface_hub import snapshot_download
    from transformers.utils import find_adapter_config_file

    folder = ""
    try:
        if find_adapter_config_file(name, revision=revision):
            folder = snapshot_download(name, revision=revision, allow_patterns=_ADAPTER_FILES)
        else:
            tokenizer, network = _tokenizer(name, revision), _network(name, revision)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model.name={name!r} is neither a local folder nor a model that can be fetched ({first}); give a folder, "
            "a gs:// URI, or a Hugging Face name with safetensors weights that this machine can reach"
        ) from None
    if folder:
        check(Path(folder))
        return _merged(Path(folder))
    require_end_token(tokenizer, name)
    return _fitting(network, tokenizer, name)


def check(folder: Path) -> None:
    """Refuse a folder that is no complete model or adapter, that would run code, or whose weights are pickles."""
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder {folder} does not exist")
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json, so this is no model in Hugging Face format")
    if not adapter and "auto_map" in json.loads((folder / "config.json").read_text()):
        raise ValueError(f"{folder}: config.json names code of its own (auto_map), which is never run")
    if not any(folder.glob(ADAPTER_WEIGHTS if adapter else "*.safetensors")):
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        found = (
            f"only pickle weights ({', '.join(pickles)}), which can run code when they are loaded"
            if pickles
            else "none"
        )
        how = "PeftModel.from_pretrained(base, folder)" if adapter else "AutoModelForCausalLM.from_pretrained(folder)"
        raise ValueError(
            f"{folder}: weights must be safetensors, found {found}; convert them where you trust the file: "
            f"{how}.save_pretrained(new_folder)"
        )


def require_end_token(tokenizer: Any, name: str) -> None:
    """A model without an end-of-text token cannot say where an item ends."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{name}: its tokenizer has no end-of-text token (eos_token); set one before saving it")


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write config, safetensors and tokenizer; decoding options are not stored, so none can leak into a later run."""
    _quiet()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (Path(folder) / "generation_config.json").unlink(missing_ok=True)


def _quiet() -> None:
    """No progress bars of a library: the steps' own lines say what happens."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _tokenizer(name: Path | str, revision: str | None = None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, trust_remote_code=False, revision=revision or "main")


def _network(name: Path | str, revision: str | None = None) -> Any:
    from transformers import AutoModelForCausalLM

    network, found = AutoModelForCausalLM.from_pretrained(
        name,
        trust_remote_code=False,
        use_safetensors=True,
        dtype="float32",
        revision=revision or "main",
        output_loading_info=True,
    )
    missing = sorted(found["missing_keys"])  # the library would make them up
    require(not missing, f"{name}: {len(missing)} weights are not in its files, such as {missing[:1]}; save it again")
    network.config.use_cache = False
    return network


def _fitting(network: Any, tokenizer: Any, name: str) -> tuple[Any, Any]:
    """Both, when every token has a row of the embedding."""
    rows, tokens = network.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values()) + 1
    require(
        tokens <= rows,
        f"{name}: its tokenizer has {tokens} entries but the model's embedding {rows} rows; take the tokenizer that "
        f"the model was trained with, or save the model after resize_token_embeddings({tokens})",
    )
    return network, tokenizer


# --- adapters ---------------------------------------------------------------------------------------------------


def _merged(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of an adapter's base with the adapter in its weights."""
    from peft import PeftConfig, PeftModel
    from safetensors.torch import load_file

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {ADAPTER_CONFIG} cannot be read ({error}); save the adapter again") from None
    kind = str(config.peft_type).removeprefix("PeftType.")
    require(kind == "LORA", f"{folder}: an adapter of type {kind} is not merged; only LORA is")
    network, tokenizer = _base(folder, config)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = _tokenizer(folder)
        require_end_token(tokenizer, str(folder))
    weights = load_file(folder / ADAPTER_WEIGHTS)
    _check_vocabulary(weights, network, folder)
    _fitting(network, tokenizer, str(folder))
    try:
        adapted = PeftModel.from_pretrained(network, str(folder), torch_device="cpu")
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:400]
        raise ValueError(f"{folder}: does not fit its base {config.base_model_name_or_path}: {text}") from None
    _check_names(weights, adapted, folder)
    return _merge(adapted, folder), tokenizer


def _base(folder: Path, config: Any) -> tuple[Any, Any]:
    """(model, tokenizer) that adapter_config.json names: a folder, also one beside the adapter, or a name."""
    base = str(config.base_model_name_or_path or "")
    local = [path for path in (Path(base).expanduser(), folder / base) if base and path.is_dir()]
    if any((path / ADAPTER_CONFIG).is_file() for path in local):
        raise ValueError(f"{folder}: its base {base} is an adapter itself; merge that one first and name the result")
    try:
        return load(local[0]) if local else load_from_hub(base, config.revision)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{folder}: its base {base!r} cannot be loaded: {error}. Edit base_model_name_or_path in "
            f"{folder / ADAPTER_CONFIG} to a folder or a Hugging Face name that is there"
        ) from None


def _check_vocabulary(weights: dict[str, Any], network: Any, folder: Path) -> None:
    """Refuse whole weights with more or fewer rows than the base's: an embedding that was resized before training."""
    own = network.state_dict()
    for name, weight in weights.items():
        theirs, ours = weight.shape, own.get(name.removeprefix(ADAPTER_PREFIX), weight).shape
        require(
            theirs == ours or theirs[1:] != ours[1:],
            f"{folder}: {name} has {theirs[0]} rows, its base {ours[0]}: the vocabulary was resized before training; "
            f"save the base after resize_token_embeddings({theirs[0]}) and name it in {ADAPTER_CONFIG}",
        )


def _check_names(weights: dict[str, Any], adapted: Any, folder: Path) -> None:
    """Refuse an adapter that has weights for other layers than this base: they would be left out, or made up."""
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    whole = {ADAPTER_PREFIX + name for name in adapted.get_base_model().state_dict()}
    differing = sorted((expected ^ weights.keys()) - whole)
    require(
        not differing,
        f"{folder}: does not fit its base: {len(differing)} adapter weights are only in one of both, such as "
        f"{differing[:1]}; name the base that it was trained on in {ADAPTER_CONFIG}",
    )


def _merge(adapted: Any, folder: Path) -> Any:
    """The plain network, with the same logits."""
    import torch

    adapted.eval()
    probe = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = adapted(input_ids=probe).logits
        network = adapted.merge_and_unload(safe_merge=True)
        after = network(input_ids=probe).logits
    require(
        torch.allclose(before, after, rtol=1e-3, atol=1e-3),
        f"{folder}: merged, it gives other logits, as when an adapter is on an embedding that the output layer shares; "
        "train it without that layer",
    )
    if network.get_input_embeddings().weight is not network.get_output_embeddings().weight:
        network.config.tie_word_embeddings = False  # an output layer that was trained whole is no copy any more
    return network.requires_grad_(True)
