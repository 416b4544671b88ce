"""A causal LM as a decoder whose prompts are read once.

Shape suffixes: U prompts, R rows, T new tokens, D width, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calrec.arrays.ragged import Ids, Ragged
from calrec.finetune.towers import core
from calrec.generate import attention
from calrec.generate.attention import Branches, Prompts
from calrec.model import architecture


class Bytes(NamedTuple):
    """Memory for each token that is read."""

    cache: float
    """Its keys and values."""
    logits: float
    """The logits behind it, and as much again while they are worked on."""


def bytes_per_token(network: Any) -> Bytes:
    """What a token of this network costs while it is decoded."""
    config = core(network).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width * core(network).dtype.itemsize
    return Bytes(float(cache), 2.0 * config.vocab_size * 4)


class Decoder:
    """Reads prompts once, and rows that continue them; leaves the network as it was when closed.

    Use as a context: the network's attention is ours inside.
    """

    def __init__(self, network: Any):
        self.core = core(network)
        self.device: torch.device = self.core.device
        self._can_keep = "logits_to_keep" in inspect.signature(self.core.forward).parameters
        self._states: Tensor | None = None

    def __enter__(self) -> "Decoder":
        attention.register()
        self._was = self.core.config._attn_implementation
        self._trained = [module for module in self.core.modules() if module.training]
        self.core.eval()
        self._hook = architecture.decoder(self.core).register_forward_hook(self._keep)
        self.core.set_attn_implementation(attention.NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()
        self.core.set_attn_implementation(self._was)
        _train(self._trained)

    def _keep(self, module: Any, given: Any, out: Any) -> None:
        self._states = out.last_hidden_state

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Ids]) -> tuple[Prompts, Tensor, Tensor]:
        """Read prompts as one packed row.

        Returns:
            their keys and values; logits of the next token [U, V]; means of last-layer states [U, D], which is v_U.
        """
        rows = Ragged.of(prompts)
        lengths = rows.lengths()
        read = Prompts(lengths.tolist(), self.device)
        last = torch.from_numpy(rows.offsets[1:] - 1).to(self.device)
        logits = self._run(rows.flat, np.arange(len(rows.flat)) - np.repeat(rows.offsets[:-1], lengths), read, last)
        return read, logits, self._means(lengths)

    @torch.no_grad()
    def vectors(self, sequences: Sequence[Ids]) -> Tensor:
        """Mean of last-layer states of each sequence on its own, [U, D] in fp32: v_T of targets, v_U of prompts."""
        rows = Ragged.of(sequences)
        lengths = rows.lengths()
        positions = np.arange(len(rows.flat)) - np.repeat(rows.offsets[:-1], lengths)
        self._run(rows.flat, positions, Prompts(lengths.tolist(), self.device), torch.empty(0, dtype=torch.long))
        return self._means(lengths)

    def _means(self, lengths: NDArray[np.int64]) -> Tensor:
        assert self._states is not None
        sizes = torch.from_numpy(lengths).to(self.device)
        segment_T = torch.repeat_interleave(torch.arange(len(sizes), device=self.device), sizes)
        sums = torch.zeros(len(sizes), self._states.shape[-1], device=self.device)
        return sums.index_add(0, segment_T, self._states[0].float()) / sizes[:, None]

    @torch.no_grad()
    def extend(self, branches: Branches, tokens: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Read new tokens of every row.

        Args:
            branches: rows of prompts that this decoder read.
            tokens: ids row after row, [T].
            sizes: how many of each row, [R], each >= 1; one each when not given.

        Returns:
            logits of the token after each new token, [T, V], in fp32.
        """
        positions = branches.read(torch.ones_like(branches.owner_R) if sizes is None else sizes)
        return self._forward(tokens, positions, branches, None)

    def _run(self, ids: Ids, positions: NDArray[Any], shared: Prompts, keep: Tensor) -> Tensor:
        ids_T, position_T = (torch.from_numpy(x.astype(np.int64)).to(self.device) for x in (ids, positions))
        return self._forward(ids_T, position_T, shared, keep.to(self.device))

    def _forward(self, ids_T: Tensor, position_T: Tensor, shared: Prompts | Branches, keep: Tensor | None) -> Tensor:
        options: dict[str, Any] = {}
        if self._can_keep and keep is not None:
            options["logits_to_keep"] = keep
        logits: Tensor = self.core(
            input_ids=ids_T[None], position_ids=position_T[None], use_cache=False, shared=shared, **options
        ).logits[0]
        return (logits if self._can_keep or keep is None else logits[keep]).float()


def _train(modules: Sequence[Any]) -> None:
    """Into training mode again, each one by itself."""
    for module in modules:
        module.training = True


def suits(network: Any) -> str:
    """Why this network's prompts cannot be shared; empty when a probe gives what its own forward pass gives."""
    inner = core(network)
    vocabulary = min(inner.config.get_text_config().vocab_size, 1000)
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, vocabulary, size).astype(np.int32) for size in (40, 7)]
    owners, sizes = torch.tensor([1, 0, 1]), torch.tensor([3, 1, 2])
    runs = [draw.integers(0, vocabulary, size) for size in sizes.tolist()]
    trained = [module for module in inner.modules() if module.training]
    inner.eval()
    try:
        with torch.no_grad():
            expected = [_plain(inner, prompts[owner], run) for owner, run in zip(owners.tolist(), runs, strict=True)]
        with Decoder(network) as decoder:
            read, *_ = decoder.prefill(prompts)
            rows = Branches(read, owners.to(decoder.device))
            tokens = torch.from_numpy(np.concatenate(runs)).to(decoder.device)
            found = decoder.extend(rows, tokens, sizes.to(decoder.device))
    except (TypeError, RuntimeError, AttributeError, ValueError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        _train(trained)
    whole = torch.cat(expected)
    gap = float((found - whole).norm() / whole.norm())
    return "" if gap < (1e-4 if inner.dtype == torch.float32 else 5e-2) else f"shared logits differ by {gap:.1e}"


def _plain(inner: Any, prompt: Ids, run: NDArray[Any]) -> Tensor:
    ids = torch.from_numpy(np.concatenate([prompt, run]).astype(np.int64)).to(inner.device)
    logits: Tensor = inner(input_ids=ids[None], use_cache=False).logits[0, len(prompt) :]
    return logits.float()
