"""Models as folders in Hugging Face format, or as PEFT adapters of one: safetensors only, no remote code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calrec.config.checks import check as require
from calrec.model import inspection
from calrec.model.inspection import ADAPTER_CONFIG, ADAPTER_WEIGHTS

ADAPTER = "adapter"
"""Folder inside a whole model's, with what was trained as an adapter of the base; the whole model is what is loaded."""
ADAPTER_PREFIX = "base_model.model."
"""Of a weight's name in an adapter."""
_TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja",
)  # fmt: skip


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a local folder, in fp32; an adapter is merged into the base that it names.

    Raises:
        FileNotFoundError: no folder, or no config in it.
        ValueError: pickle weights, code of its own or files from elsewhere, missing or unknown weights, an empty
            network, no tokenizer or one that does not fit, no end-of-text token; an adapter whose base is not there or
            of another shape; whatever else a library stumbles over.
    """
    folder = Path(folder)
    inspection.check(folder)
    _quiet()
    if (folder / ADAPTER_CONFIG).is_file():
        return _merged(folder)
    return _fitting(_network(folder), _tokenizer(folder), str(folder))


def load_from_hub(name: str, revision: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face name, fetched over the network or from its cache; errors as :func:`load`."""
    from huggingface_hub import snapshot_download

    def fetched(*files: str) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))

    try:
        folder = fetched(*inspection.CONFIGS, inspection.INDEX, *_TOKENIZER_FILES)
        if not (folder / ADAPTER_CONFIG).is_file():
            inspection.check_configs(folder)  # before what is large
            folder = fetched(*(inspection.shards(folder) or ["model.safetensors"]))
        else:
            folder = fetched(ADAPTER_WEIGHTS)
    except (OSError, ValueError) as error:
        first = _first_line(error)
        raise ValueError(
            f"model.name={name!r} is neither a local folder nor a model that can be fetched ({first}); give a folder, "
            "a gs:// or s3:// URI, or a Hugging Face name with safetensors weights that this machine can reach"
        ) from None
    return load(folder)


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


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with _refused(folder, "its tokenizer", "save it with save_pretrained"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    require_end_token(tokenizer, str(folder))
    return tokenizer


def _network(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    count = inspection.tensors(folder)
    with _refused(folder, "its config.json", "it must be one of a causal language model that transformers knows"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        inspection.check_sizes(config, count, str(folder))
    with _refused(folder, "it", "it must be a causal language model whose weights fit its config.json"):
        network, found = AutoModelForCausalLM.from_pretrained(
            folder, config=config, trust_remote_code=False, use_safetensors=True, dtype="float32",
            output_loading_info=True,
        )  # fmt: skip
    missing, unknown = (sorted(found[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
    # The library would make up the one, and leave out the other.
    require(not missing, f"{folder}: {len(missing)} weights are not in its files, such as {missing[:1]}; save it again")
    require(
        not unknown,
        f"{folder}: {len(unknown)} weights in its files have no place in a {type(network).__name__}, such as "
        f"{unknown[:1]}; its config.json is of another model, or it is more than a language model",
    )
    network.config.use_cache = False
    return network


@contextmanager
def _refused(folder: Path, what: str, remedy: str) -> Iterator[None]:
    """Say in a sentence what a library stumbles over in a foreign file, whatever it raises for it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        text = _first_line(error)
        raise ValueError(f"{folder}: {what} cannot be loaded ({text}); {remedy}") from None


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


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

    with _refused(folder, ADAPTER_CONFIG, "save the adapter again"):
        config = PeftConfig.from_pretrained(str(folder))
    kind = str(config.peft_type).removeprefix("PeftType.")
    require(kind == "LORA", f"{folder}: an adapter of type {kind} is not merged; only LORA is")
    network, tokenizer = _base(folder, config)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = _tokenizer(folder)
    with _refused(folder, ADAPTER_WEIGHTS, "copy it again"):
        weights = load_file(folder / ADAPTER_WEIGHTS)
    _check_vocabulary(weights, network, folder)
    _fitting(network, tokenizer, str(folder))
    try:
        adapted = PeftModel.from_pretrained(network, str(folder), torch_device="cpu")
    except Exception as error:  # whatever it stumbles over
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
