"""Attention of many continuations of one prompt, whose keys and values exist once.

Registered through transformers' attention interface, so that every architecture runs its own forward pass. A prompt is
read once (:class:`Prompts`); then rows, each the continuation of one prompt, read tokens of their own
(:class:`Branches`). Attention over the prompt and over a row's own tokens are two parts of one softmax, joined by their
log-sum-exps.

Shape suffixes: U prompts, R rows, T new tokens of all rows, M new tokens of a row, P tokens of a prompt, N own tokens
of a row, H heads of keys, G query heads per key head, K width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from calrec.finetune.attention import Packing, packed_attention

NAME = "calrec_shared_prompt"
_NOTHING = -6e4  # score of a key that is not seen, also in fp16; -inf would make a NaN where none is seen


def shared_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    shared: "Prompts | Branches | None" = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer; [1, H·G, T, K] in, [1, T, H·G, K] out.

    Raises:
        ValueError: the layer wants what is not done here, or did not pass `shared` on.
    """
    if shared is None or softcap is not None or attention_mask is not None or unused.get("s_aux") is not None:
        raise ValueError("this architecture's attention cannot share a prompt")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = shared.attend(module.layer_idx, query, key, value, scale, sliding_window or 0)
    return out, None


class Prompts:
    """Keys and values of some prompts, kept while they are read as one packed row."""

    def __init__(self, lengths: Sequence[int], device: torch.device, kernel: str = "loop"):
        self.lengths = list(lengths)
        self.length_U = torch.tensor(self.lengths, device=device)
        self.packing = Packing([0, *self.length_U.cumsum(0).tolist()], kernel, device)
        self.keys: dict[int, Sequence[Tensor]] = {}
        """Layer → for each prompt [H, P, K]."""
        self.values: dict[int, Sequence[Tensor]] = {}
        self._padded: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
        """Causal attention inside each prompt."""
        self.keys[layer] = torch.split(k[0].contiguous(), self.lengths, 1)  # type: ignore[no-untyped-call]
        self.values[layer] = torch.split(v[0].contiguous(), self.lengths, 1)  # type: ignore[no-untyped-call]
        out: Tensor
        out, _ = packed_attention(
            None, q, k, v, None, scaling=scale, packing=self.packing, sliding_window=window or None
        )
        return out

    def pad(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values as [U, H, P, K], zeros behind shorter prompts; made once."""
        if layer not in self._padded:
            self._padded[layer] = _stacked(self.keys[layer]), _stacked(self.values[layer])
        return self._padded[layer]


class Branches:
    """Rows that continue prompts: their owners, and keys and values of their own tokens.

    Rows lie in slots 0 … R − 1 of one buffer, in any order of owners.
    """

    def __init__(self, prompts: Prompts, owners: Tensor, grid: bool | None = None):
        """Rows without tokens of their own yet.

        Args:
            prompts: that were read.
            owners: prompt of each row, [R].
            grid: attend to all prompts in one padded product, as a GPU wants it, instead of one after the other.
        """
        self.prompts = prompts
        self.owner_R = owners
        self.length_R = torch.zeros_like(owners)
        self.keys: dict[int, Tensor] = {}
        """Layer → [at least R, H, at least the longest row, K]; zeros where nothing was read. It is read whole: a CPU
        takes four times as long for tokens 0 … N − 1 of each row, with gaps between them."""
        self.values: dict[int, Tensor] = {}
        self.grid = owners.is_cuda if grid is None else grid

    def __len__(self) -> int:
        return len(self.owner_R)

    def select(self, parents: Tensor) -> Tensor:
        """Replace the rows by copies of rows; as few keys and values as possible are moved.

        Args:
            parents: row that each new row continues, [R′].

        Returns:
            the slot of each new row, [R′]; the slots are 0 … R′ − 1.
        """
        many = len(parents)
        order = torch.argsort(parents, stable=True)
        first = torch.ones(many, dtype=torch.bool, device=parents.device)
        first[order[1:]] = parents[order[1:]] != parents[order[:-1]]
        stays = first & (parents < many)  # the first child of a row that need not leave its slot
        slots = torch.where(stays, parents, -1)
        free = torch.ones(many, dtype=torch.bool, device=parents.device)
        free[parents[stays]] = False
        slots[~stays] = free.nonzero()[:, 0]
        longest = int(self.length_R.max()) if len(self) else 0
        source, target = parents[~stays], slots[~stays]
        if len(source):
            for buffers in (self.keys, self.values):
                for layer, buffer in buffers.items():
                    buffers[layer] = buffer = _with_room(buffer, many, longest)
                    buffer[target, :, :longest] = buffer[source, :, :longest]
        owner, length = self.owner_R[parents], self.length_R[parents]
        self.owner_R, self.length_R = torch.empty_like(owner), torch.empty_like(length)
        self.owner_R[slots], self.length_R[slots] = owner, length
        return slots

    def read(self, sizes: Tensor) -> Tensor:
        """Begin to read `sizes[r] >= 1` new tokens of each row, row after row; gives their positions, [T]."""
        self._row_T = torch.repeat_interleave(torch.arange(len(self), device=sizes.device), sizes)
        before = sizes.cumsum(0) - sizes
        self._turn_T = torch.arange(len(self._row_T), device=sizes.device) - before[self._row_T]
        self._at_T = self.length_R[self._row_T] + self._turn_T
        self.length_R = self.length_R + sizes
        self._most, self._longest, shortest = torch.stack(
            [sizes.max(), self.length_R.max(), self.length_R.min()]
        ).tolist()
        self._even = self._most == 1 and shortest == self._longest  # each row reads its token at the same place
        owner_T = self.owner_R[self._row_T]
        self._position_T = self.prompts.length_U[owner_T] + self._at_T
        self._by_owner(owner_T)
        return self._position_T

    def _by_owner(self, owner_T: Tensor) -> None:
        self._order_T = torch.argsort(owner_T, stable=True)
        self._back_T = torch.argsort(self._order_T)
        count_U = torch.bincount(owner_T, minlength=len(self.prompts.lengths))
        self._count_U: list[int] = count_U.tolist()
        self._owner_T = owner_T[self._order_T]
        before_U = count_U.cumsum(0) - count_U
        self._place_T = torch.arange(len(owner_T), device=owner_T.device) - before_U[self._owner_T]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
        """Attention of the new tokens over their prompts and over their rows' own tokens."""
        heads = k.shape[1]
        for buffers, new in ((self.keys, k), (self.values, v)):
            buffer = buffers.get(layer, new.new_zeros((0, heads, 0, new.shape[-1])))
            buffers[layer] = buffer = _with_room(buffer, len(self), self._longest)
            if self._even:
                buffer[: len(self), :, self._longest - 1] = new[0].transpose(0, 1)
            else:
                buffer[self._row_T, :, self._at_T] = new[0].transpose(0, 1)
        q_THGK = torch.unflatten(q[0].transpose(0, 1) * scale, 1, (heads, -1))
        over_prompt = self._prompts_grid if self.grid else self._prompts_loop
        there, lse_there = over_prompt(layer, q_THGK.index_select(0, self._order_T), window)
        own, lse_own = self._own(layer, q_THGK, window)
        there, lse_there = (part.index_select(0, self._back_T) for part in (there, lse_there))
        return torch.lerp(own, there, torch.sigmoid(lse_there - lse_own).to(own.dtype)).flatten(1, 2)[None]

    def _own(self, layer: int, q_THGK: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Over the tokens of the same row, up to the token itself."""
        rows, many = len(self), self._most
        keys, values = self.keys[layer][:rows], self.values[layer][:rows]
        q_RMHGK = self._in_grid(q_THGK, self._row_T, self._turn_T, rows, many)
        q_RHQK = q_RMHGK.permute(0, 2, 3, 1, 4).flatten(2, 3)
        scores = torch.unflatten(q_RHQK @ keys.transpose(-1, -2), 2, (-1, many))
        if self._even and not window:
            scores[..., self._longest :] = _NOTHING
        else:
            at_RM = self._in_grid(self._at_T, self._row_T, self._turn_T, rows, many)
            away = at_RM[:, :, None] - torch.arange(keys.shape[2], device=scores.device)
            hidden = (away < 0) | (away >= window) if window else away < 0
            scores.masked_fill_(hidden[:, None, None], _NOTHING)
        out, lse = (torch.unflatten(part, 2, (-1, many)) for part in _part(scores.flatten(2, 3), values))
        if many == 1:
            return out[:, :, :, 0], lse[:, :, :, 0]
        each = (self._row_T, slice(None), slice(None), self._turn_T)
        return out[each], lse[each]

    @staticmethod
    def _in_grid(flat_T: Tensor, row_T: Tensor, turn_T: Tensor, rows: int, many: int) -> Tensor:
        """[T, …] as [rows, many, …], zeros where a row has fewer; no copy when each has one."""
        if many == 1 and len(flat_T) == rows:
            return flat_T[:, None]
        grid = flat_T.new_zeros((rows, many, *flat_T.shape[1:]))
        grid[row_T, turn_T] = flat_T
        return grid

    def _prompts_loop(self, layer: int, q_THGK: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Over the prompts, one product for each; tokens are sorted by owner."""
        outs: list[Tensor] = []
        lses: list[Tensor] = []
        position = self._position_T[self._order_T].split(self._count_U)  # type: ignore[no-untyped-call]
        for user, q_tHGK in enumerate(q_THGK.split(self._count_U)):  # type: ignore[no-untyped-call]
            if not len(q_tHGK):
                continue
            q_HQK = q_tHGK.permute(1, 2, 0, 3).flatten(1, 2)
            scores = q_HQK @ self.prompts.keys[layer][user].transpose(-1, -2)
            if window:
                far = _far(position[user], scores.shape[-1], window).repeat(q_tHGK.shape[2], 1)
                scores.masked_fill_(far, _NOTHING)
            for part, parts in zip(_part(scores, self.prompts.values[layer][user]), (outs, lses), strict=True):
                parts.append(torch.unflatten(part, 1, (-1, len(q_tHGK))).permute(2, 0, 1, 3))
        return torch.cat(outs), torch.cat(lses)

    def _prompts_grid(self, layer: int, q_THGK: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Over the prompts, one padded product for all; tokens are sorted by owner."""
        keys, values = self.prompts.pad(layer)
        users, most = len(keys), max(self._count_U)
        owner_T, place_T = self._owner_T, self._place_T
        q_UMHGK = self._in_grid(q_THGK, owner_T, place_T, users, most)
        scores = q_UMHGK.permute(0, 2, 3, 1, 4).flatten(2, 3) @ keys.transpose(-1, -2)
        behind = torch.arange(keys.shape[2], device=keys.device) >= self.prompts.length_U[:, None]
        scores.masked_fill_(behind[:, None, None], _NOTHING)
        if window:
            position_UM = self._in_grid(self._position_T[self._order_T], owner_T, place_T, users, most)
            far = _far(position_UM, keys.shape[2], window)[:, None].repeat(1, 1, q_THGK.shape[2], 1)
            scores.masked_fill_(far, _NOTHING)
        each = (owner_T, slice(None), slice(None), place_T)
        out, lse = (torch.unflatten(part, 2, (-1, most))[each] for part in _part(scores, values))
        return out, lse


def _with_room(buffer: Tensor, rows: int, tokens: int) -> Tensor:
    """A buffer [rows, H, tokens, K] or more; what is new of it is zero, since 0 times what is not a number is none."""
    have = buffer.shape
    if have[0] >= rows and have[2] >= tokens:
        return buffer
    many = have[0] if have[0] >= rows else rows + rows // 2 if have[0] else rows
    most = have[2] if have[2] >= tokens else max(16, 2 ** (tokens - 1).bit_length())
    larger = buffer.new_zeros((many, have[1], most, have[3]))
    larger[: have[0], :, : have[2]] = buffer
    return larger


def _part(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax-weighted values over some of the keys, and the log-sum-exp of their scores, [..., 1]."""
    scores = scores.float()
    weights = scores.softmax(-1)
    # The highest score's weight is e^0 / sum.
    lse = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log_()
    return weights.to(values.dtype) @ values, lse


def _far(position: Tensor, keys: int, window: int) -> Tensor:
    """Which keys of a prompt lie outside of the window of a token at `position`: [..., keys]."""
    return position[..., None] - torch.arange(keys, device=position.device) >= window


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """[H, P, K] of each prompt as [U, H, P, K], zeros behind."""
    return torch.nn.utils.rnn.pad_sequence([part.transpose(0, 1) for part in parts], batch_first=True).transpose(1, 2)


def register() -> None:
    """Make the name known to transformers."""
    AttentionInterface.register(NAME, shared_attention)
