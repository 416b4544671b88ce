"""Models as folders in Hugging Face format: safetensors only, no remote code."""

import json
from pathlib import Path
from typing import Any

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a local folder, in fp32.

    Raises:
        FileNotFoundError: no folder, or no config in it.
        ValueError: pickle weights, code of its own, no tokenizer, or no end-of-text token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    check(folder)
    _quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: its tokenizer cannot be loaded ({error}); save it with save_pretrained") from None
    require_end_token(tokenizer, str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, dtype="float32")
    model.config.use_cache = False
    return model, tokenizer


def load_from_hub(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face name, fetched over the network or from its cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype="float32"
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model.name={name!r} is neither a local folder nor a model that can be fetched ({first}); give a folder, "
            "a gs:// URI, or a Hugging Face name with safetensors weights that this machine can reach"
        ) from None
    require_end_token(tokenizer, name)
    return model, tokenizer


def check(folder: Path) -> None:
    """Refuse a folder that is no complete model, that would run code, or whose weights are pickles."""
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json, so this is no model in Hugging Face format")
    if "auto_map" in json.loads((folder / "config.json").read_text()):
        raise ValueError(f"{folder}: config.json names code of its own (auto_map), which is never run")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        found = (
            f"only pickle weights ({', '.join(pickles)}), which can run code when they are loaded"
            if pickles
            else "none"
        )
        raise ValueError(
            f"{folder}: weights must be safetensors, found {found}; convert them where you trust the file: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )


def _quiet() -> None:
    """No progress bars of a library: the steps' own lines say what happens."""
    from transformers.utils import logging

    logging.disable_progress_bar()


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
