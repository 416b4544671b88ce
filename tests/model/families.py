"""Every causal family of transformers that a tiny configuration can make: how it trains, or why not.

`python -m tests.model.families [FAMILY …]` prints the table of RESULTS.md. A family trains when a whole step of its
own tiny random network, saved, loaded and read as any foreign model, gives a finite loss and a gradient in each layer.
"""

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from calrec.config import StageConfig
from calrec.finetune import telemetry, towers
from calrec.finetune.gradients import backward
from calrec.finetune.ranks import Ranks
from calrec.finetune.step import reading
from calrec.finetune.towers import Towers
from calrec.model import checkpoint
from tests.finetune.networks import VOCABULARY, batches

LARGEST = 30_000_000  # parameters of a network that is tiny
STAGE = StageConfig(batch_size=4)
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "head_dim": 8,
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "d_model": 32, "decoder_layers": 2,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "encoder_layers": 2, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "ffn_dim": 64, "embedding_size": 32, "word_embed_proj_dim": 32, "is_decoder": True,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "n_layers": 2, "n_heads": 4, "emb_dim": 32, "use_cache": False,
    "state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "ffn_hidden_size": 64,
    "num_decoder_layers": 2, "kv_channels": 8, "rnn_hidden_size": 32, "lru_width": 32, "dropout": 0.0,
    "rotary_dim": 8, "d_head": 8, "d_inner": 64,
}  # fmt: skip
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types", "attention_types")


def configured(config_class: Any) -> Any:
    """A small configuration of a family: those of our sizes that it knows.

    Raises:
        Exception: what its own checks say.
    """
    default = config_class()
    if default.get_text_config() is not default:
        return config_class(**{name: configured(type(getattr(default, name))).to_dict()
                               for name in ("text_config",) if hasattr(default, name)})  # fmt: skip
    known = set(default.to_dict()) | set(default.attribute_map)
    known = {name for name in known if not isinstance(getattr(config_class, name, None), property)}
    given = {name: value for name, value in _SMALL.items() if name in known}
    named = {default.attribute_map.get(name, name) for name in given if name in default.attribute_map}
    given = {name: value for name, value in given.items() if name not in named}
    if "kv_lora_rank" in given and "num_key_value_heads" in given:  # latent attention shares no heads
        given["num_key_value_heads"] = given["num_attention_heads"]
    for name in _LISTS:
        kinds = getattr(default, name, None)
        if isinstance(kinds, list) and name in known and len(kinds) > 2:
            given[name] = list(dict.fromkeys(kinds))[:2] if len(set(map(str, kinds))) > 1 else kinds[:2]
            given[name] = (given[name] * 2)[:2]
    return config_class(**given)


def network_of(family: str) -> Any:
    """A tiny random network.

    Raises:
        Exception: what the library says against it, or its own forward pass: our sizes do not go together.
        ValueError: it is not tiny.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = configured(CONFIG_MAPPING[family])
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters at the least")
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config)
    network.eval()(input_ids=torch.arange(8)[None])
    return network


def trained(network: Any, tokenizer: Any) -> str:
    """How one step goes, after a save and a load.

    Raises:
        ValueError: the refusal that a person would read.
    """
    with tempfile.TemporaryDirectory() as name:
        checkpoint.save(network, tokenizer, Path(name))
        network = checkpoint.load(Path(name))[0]
    said: list[str] = []
    kernel = reading(network, STAGE, torch.float32, said.append)
    layers = towers.layers(network)
    reader = Towers(network, kernel=kernel)
    network.train()
    terms = backward(reader, batches([4]), STAGE, Ranks())
    reader.close()
    moved = [any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters()) for layer in layers]
    assert telemetry.flops(network, 100, 5000, 20) > 0
    assert torch.isfinite(terms.loss), f"its loss is {terms.loss}"
    assert all(moved), "a layer has no gradient"
    return "trains, packed" if kernel != "padded" else f"trains, padded ({said[0].split('(', 1)[1].split(';')[0]}"[:110]


def rows(tokenizer: Any, families: list[str]) -> Iterator[tuple[str, str]]:
    """(family, outcome): `trains, …`, `refused: …`, `no tiny configuration: …`, or `fails: …`, which is our fault."""
    for family in families:
        try:
            with _silent():
                network = network_of(family)
        except Exception as error:
            yield family, f"no tiny configuration: {type(error).__name__}: {' '.join(str(error).split())[:90]}"
            continue
        try:
            with _silent():
                outcome = trained(network, tokenizer)
        except ValueError as error:
            outcome = f"refused: {' '.join(str(error).split())[:150]}"
        except Exception as error:
            outcome = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        yield family, outcome


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def tokenizer() -> Any:
    """One with as many entries as the networks' vocabulary allows."""
    from calrec.model import scratch

    return scratch.train_tokenizer(["red lamp", "blue chair"] * 20, VOCABULARY - 10, [])


def main(families: list[str]) -> int:
    """Print the table; 1 when a family fails that is neither trained nor refused."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils import logging

    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.set_verbosity(logging.CRITICAL)
    torch.set_num_threads(1)
    print("| family | outcome |\n|---|---|")
    failed = 0
    for family, outcome in rows(tokenizer(), families or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)):
        print(f"| {family} | {outcome} |", flush=True)
        failed += outcome.startswith("fails")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
