"""Causal attention inside each sequence of a packed row, registered through transformers' attention interface.

Shape suffixes: H heads, T tokens of all sequences, K width of a head.
"""

import functools
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

NAME = "calrec_packed"


@dataclass
class Packing:
    """Where the sequences of a packed row are, and how they attend; travels to each layer as a keyword."""

    offsets: list[int]
    kernel: str
    """loop, varlen or flex."""
    device: torch.device
    _made: dict[Any, Any] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(b - a for a, b in itertools.pairwise(self.offsets))

    def cumulative(self) -> Tensor:
        """The offsets as varlen kernels want them; made once for all layers."""
        if "offsets" not in self._made:
            self._made["offsets"] = torch.tensor(self.offsets, dtype=torch.int32, device=self.device)
        return self._made["offsets"]  # type: ignore[no-any-return]

    def block_mask(self, window: int) -> Any:
        """The mask of flex attention; made once for all layers with one window."""
        if window not in self._made:
            from torch.nn.attention.flex_attention import create_block_mask

            total = self.offsets[-1]
            lengths = torch.tensor(self.offsets, device=self.device).diff()
            sequence_T = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), lengths)

            def inside(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                near = q - k < window if window else q >= 0
                return (sequence_T[q] == sequence_T[k]) & (q >= k) & near

            self._made[window] = create_block_mask(inside, None, None, total, total, device=str(self.device))
        return self._made[window]


def candidates(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Kernels that may fit, the fastest first: varlen for 16-bit on a GPU, flex there too, the loop everywhere."""
    if device.type != "cuda":
        return ["loop"]
    return [*(["varlen"] if dtype != torch.float32 and _varlen() else []), "flex", "loop"]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its loop over sequences would be compiled anew for each batch
def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer on a packed row; [1, H, T, K] in, [1, T, H, K] out.

    Raises:
        ValueError: the layer wants what no kernel here does, or did not pass the packing on.
    """
    if packing is None or softcap is not None or (attention_mask is not None) or unused.get("s_aux") is not None:
        raise ValueError("this architecture's attention cannot be packed")
    if packing.kernel != "loop" and dropout:
        raise ValueError(f"attention = {packing.kernel} has no dropout; use attention = loop")
    attend: Callable[..., Tensor] = {"loop": _loop, "varlen": _varlen_kernel, "flex": _flex}[packing.kernel]
    window = sliding_window if sliding_window and sliding_window < packing.longest else 0
    return attend(query, key, value, packing, scaling, window, dropout), None


def _loop(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float | None, window: int, dropout: float
) -> Tensor:
    """One causal SDPA per sequence: CPUs have no varlen kernel, and a mask over the whole row would cost its square."""
    groups = q.shape[1] // k.shape[1]
    sizes = [b - a for a, b in itertools.pairwise(packing.offsets)]
    # Slices would each give a gradient of the whole row's length; a split gives one for all.
    every = zip(*(torch.split(x, sizes, 2) for x in (q, repeat_kv(k, groups), repeat_kv(v, groups))), strict=True)  # type: ignore[no-untyped-call]
    parts = []
    for size, (q_1, k_1, v_1) in zip(sizes, every, strict=True):
        near = None
        if 0 < window < size:
            at = torch.arange(size, device=q.device)
            near = (at[:, None] >= at) & (at[:, None] - at < window)
        out = F.scaled_dot_product_attention(
            q_1, k_1, v_1, attn_mask=near, is_causal=near is None, scale=scale, dropout_p=dropout
        )
        parts.append(out.transpose(1, 2))
    return torch.cat(parts, 1)


def _varlen_kernel(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float | None, window: int, dropout: float
) -> Tensor:
    """FlashAttention over all sequences in one launch; 16-bit on a GPU only."""
    dtype = q.dtype if q.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (q, k, v))  # [T, H, K]
    at, longest, near = packing.cumulative(), packing.longest, (window - 1 if window else -1, 0)
    if not (found := _varlen()):
        raise ValueError("attention = varlen needs torch >= 2.11 or the package flash-attn; use flex")
    kernel, name = found
    if name == "flash_attn":
        out = kernel(q, k, v, at, at, longest, longest, softmax_scale=scale, causal=True, window_size=near)
    else:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = kernel(q, k, v, at, at, longest, longest, scale=scale, window_size=near)
    return out[None]  # type: ignore[no-any-return]


@functools.cache
def _varlen() -> tuple[Any, str] | None:
    """A varlen FlashAttention: the package's when it is installed, else torch's own."""
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

        return flash_attn_varlen_func, "flash_attn"
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn, "torch"
    return None


def _flex(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float | None, window: int, dropout: float
) -> Tensor:
    """Flex attention with a block mask: blocks between two sequences are skipped."""
    kernel = _compiled_flex() if q.is_cuda else _flex_attention()
    q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast rotary positions leave them in fp32
    groups = q.shape[1] != k.shape[1]
    out = kernel(q, k, v, block_mask=packing.block_mask(window), scale=scale, enable_gqa=groups)
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def _flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@functools.cache
def _compiled_flex() -> Any:
    return torch.compile(_flex_attention(), dynamic=True)


def register() -> None:
    """Make the name known to transformers."""
    AttentionInterface.register(NAME, packed_attention)
