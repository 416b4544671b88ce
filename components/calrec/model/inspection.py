"""What a model's folder must be before a library opens it: complete, no code, nothing from outside of the folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calrec.config.checks import check as require

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIGS = ("config.json", ADAPTER_CONFIG, "tokenizer_config.json", "generation_config.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


def check(folder: Path) -> None:
    """Refuse a folder that is no complete model or adapter.

    Raises:
        FileNotFoundError: no folder, or no config in it.
        ValueError: as :func:`check_configs`; no weights, weights that are pickles, or an index that names none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder {folder} does not exist")
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json, so this is no model in Hugging Face format")
    check_configs(folder)
    if adapter:
        _check_weights(folder, ADAPTER_WEIGHTS, "PeftModel.from_pretrained(base, folder)")
        return
    _check_weights(folder, "*.safetensors", "AutoModelForCausalLM.from_pretrained(folder)")
    for name in shards(folder):
        require((folder / name).is_file(), f"{folder}: {INDEX} names {name}, which is not there; copy it too")


def check_configs(folder: Path) -> None:
    """Refuse settings that would run code, fetch code, or read files that lie elsewhere.

    Raises:
        ValueError: one of these, or a file that is not JSON.
    """
    for name in CONFIGS:
        if not (folder / name).is_file():
            continue
        for key, value in _entries(read(folder / name)):
            where = f"{folder}: {name}"
            require(key != "auto_map", f"{where} names code of its own (auto_map), which is never run")
            require(
                "_implementation" not in key or not _has(value, "/:@"),
                f"{where} names code to be fetched ({key} = {value!r}), which is never run; remove this entry",
            )
            require(
                not key.startswith("megatron_") or key == "megatron_core" or not value,
                f"{where} wants a module to be imported ({key}), which is not done; save the adapter without it",
            )
            require(
                key != "fast_tokenizer_files" or not _has(value, "/\\"),
                f"{where} names files outside of the folder ({key} = {value!r}); remove this entry",
            )
            require(
                key != "transformers_weights",
                f"{where} names its own file of weights ({key} = {value!r}); save the model with save_pretrained",
            )
            require(
                key != "quantization_config" or not value,
                f"{where} is of a quantised model, which cannot be trained; give the one that it was made from",
            )


def shards(folder: Path) -> list[str]:
    """Files that the index of split weights names; none without an index.

    Raises:
        ValueError: the index is none, or names something that is no safetensors file of this folder.
    """
    if not (folder / INDEX).is_file():
        return []
    named = read(folder / INDEX).get("weight_map")
    require(isinstance(named, dict) and bool(named), f"{folder}: {INDEX} has no weight_map; save the model again")
    assert isinstance(named, dict)
    for name in named.values():
        plain = isinstance(name, str) and not set(name) & set("/\\:\0") and name.endswith(".safetensors")
        require(plain, f"{folder}: {INDEX} names {name!r}, which is no safetensors file of this folder; save it again")
    return sorted(set(named.values()))


def check_sizes(config: Any, tensors: int | None, name: str) -> None:
    """Refuse a network without layers, heads, width or vocabulary, or with more layers than there are weights.

    Args:
        config: of transformers.
        tensors: in the files of weights; None: not known.
        name: of the model, for the message.
    """
    text = config.get_text_config()
    for size in _SIZES:
        value = _size(text, size)
        require(
            not isinstance(value, int) or value >= 1,
            f"{name}: {size} = {value} in its config.json makes an empty network; take the config.json that the "
            "weights were saved with",
        )
    layers = _size(text, "num_hidden_layers")
    require(
        tensors is None or not isinstance(layers, int) or layers <= tensors,
        f"{name}: num_hidden_layers = {layers} in its config.json, but there are {tensors} weights in its files; take "
        "the config.json that the weights were saved with",
    )


def _size(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except RuntimeError:  # of a network whose layers differ
        return None


def tensors(folder: Path) -> int:
    """How many weights the safetensors files of a folder hold.

    Raises:
        ValueError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as weights:
                count += len(weights.keys())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}); copy it again") from None
    return count


def read(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it again") from None
    require(isinstance(found, dict), f"{path} is not a JSON object; copy it again")
    return dict(found)


def _check_weights(folder: Path, pattern: str, how: str) -> None:
    if any(folder.glob(pattern)):
        return
    pickles = sorted(p.name for pickle in _PICKLES for p in folder.glob(pickle))
    code = f"only pickle weights ({', '.join(pickles)}), which can run code when they are loaded"
    raise ValueError(
        f"{folder}: weights must be safetensors, found {code if pickles else 'none'}; convert them where you trust the "
        f"file: {how}.save_pretrained(new_folder)"
    )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    pairs = (
        value.items() if isinstance(value, dict) else [("", one) for one in value] if isinstance(value, list) else []
    )
    for key, its in pairs:
        yield str(key), its
        yield from _entries(its)


def _has(value: Any, signs: str) -> bool:
    """Whether a text, or one below a list or an object, has one of these signs."""
    if isinstance(value, str):
        return bool(set(value) & set(signs))
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has(one, signs) for one in below)
