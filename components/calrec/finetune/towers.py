"""The two towers of one causal LM: the joint tower reads history + target, the target tower the target alone.

Shape suffixes: B users, T tokens of all sequences, S tokens of a padded sequence, D width, N predicted tokens,
V vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from calrec.finetune import attention, losses
from calrec.finetune.attention import Packing
from calrec.finetune.batches import Batch
from calrec.model import architecture


@dataclass(frozen=True)
class Read:
    """What the loss needs of a batch, with its graph."""

    vectors_3BD: Tensor
    """v_U, v_T|U and v_T in fp32: means of last-layer states over all tokens before the target, over the target's
    tokens in the joint tower, and over the same tokens in the target tower, whose positions start at 0."""
    nll: Tensor
    """Negative log-likelihood in nats, summed over the predicted tokens."""


class Towers:
    """A network that reads batches, packed or padded."""

    def __init__(self, network: Any, spread: Any = None, kernel: str = "loop", dtype: torch.dtype = torch.float32):
        """Prepare to read.

        Args:
            network: a causal LM, adapted or not.
            spread: the same network as it is trained on several ranks; its gradients are exchanged.
            kernel: how packed rows attend (calrec.finetune.attention), or padded.
            dtype: of matrix products.
        """
        self.core = core(network)
        self.call = self.core if spread is None or spread is network else spread
        self.kernel, self.dtype, self.device = kernel, dtype, self.core.device
        self._can_keep = "logits_to_keep" in inspect.signature(self.core.forward).parameters
        self._states: Tensor | None = None
        self._hook = architecture.decoder(self.core).register_forward_hook(self._keep)
        self._was = self.core.config._attn_implementation
        if kernel != "padded":
            attention.register()
            self.core.set_attn_implementation(attention.NAME)

    def close(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()
        self.core.set_attn_implementation(self._was)

    def __call__(self, batch: Batch, graph: bool = True) -> Read:
        """Read a batch.

        Args:
            batch: on the network's device.
            graph: False gives the vectors alone, without a graph and without logits.
        """
        predict_N = batch.predict_N if graph else batch.predict_N[:0]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            read = self._padded if self.kernel == "padded" else self._packed
            states_TD, logits_NV = read(batch, predict_N)
        labels_N, begin_M = (each if graph else each[:0] for each in (batch.label_N, batch.begin_M))
        return Read(pool(states_TD, batch), losses.token_nll(logits_NV, labels_N, begin_M, batch.barred))

    def _packed(self, batch: Batch, predict_N: Tensor) -> tuple[Tensor, Tensor]:
        """One row that holds all sequences; the head sees the predicted positions alone."""
        packing = Packing(batch.offsets, self.kernel, self.device)
        logits = self._run(batch.ids_T[None], predict_N, position_ids=batch.position_T[None], packing=packing)
        return self.states[0], logits[0]

    def _padded(self, batch: Batch, predict_N: Tensor) -> tuple[Tensor, Tensor]:
        """The reference: sequences padded to the longest, each tower by itself, the head on every position.

        Under causal attention a pad behind a sequence is never seen by it, so no mask is needed.
        """
        sequences, many = torch.split(batch.ids_T, lengths(batch)), len(batch)  # type: ignore[no-untyped-call]
        logits = self._run(_pad(sequences[:many]), None)
        logits_TV, joint_TD = _flat(logits, sequences[:many]), _flat(self.states, sequences[:many])
        self._run(_pad(sequences[many:]), predict_N[:0])
        return torch.cat([joint_TD, _flat(self.states, sequences[many:])]), logits_TV[predict_N]

    def _run(self, ids: Tensor, keep: Tensor | None, **options: Any) -> Tensor:
        """Logits at the positions `keep` of each row, or at all; the states are kept aside."""
        if self._can_keep:
            options["logits_to_keep"] = 0 if keep is None else keep
        logits: Tensor = self.call(input_ids=ids, use_cache=False, **options).logits
        return logits if self._can_keep or keep is None else logits[:, keep]

    @property
    def states(self) -> Tensor:
        """Last-layer states of the last call."""
        assert self._states is not None
        states, self._states = self._states, None
        return states

    def _keep(self, module: Any, given: Any, out: Any) -> None:
        self._states = out.last_hidden_state


def core(network: Any) -> Any:
    """The causal LM itself, below adapters."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def layers(network: Any) -> Any:
    """The decoder's layers."""
    return architecture.layers(core(network))


@torch.no_grad()
def looks_ahead(network: Any) -> bool:
    """Whether a token changes the states of tokens before it, as in an encoder: such a model would see its targets."""
    inner, tower = core(network), Towers(network, kernel="padded")
    was = inner.training
    inner.eval()
    try:
        states = []
        for last in (1, 2):
            tower._run(torch.tensor([[3, 1, 4, 1, 5, 2, 6, last]], device=tower.device), None)
            states.append(tower.states[0, :-1].float())
    finally:
        inner.train(was)
        tower.close()
    return float((states[0] - states[1]).norm()) > 1e-3 * float(states[0].norm())


def recompute(network: Any) -> None:
    """Compute each layer again in the backward pass instead of keeping what it made."""
    inner = core(network)
    # The new name in transformers; the old one goes in 6.
    name = "activation_checkpointing_enable"
    enable = getattr(inner, name if hasattr(inner, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})


def drop(network: Any, share: float) -> list[RemovableHandle]:
    """Zero a share of the embeddings, and of what each attention and feed-forward layer adds, while it trains.

    Whatever the architecture: small models from scratch have no dropout of their own.
    """

    def dropped(module: Any, given: Any, out: Any) -> Any:
        if isinstance(out, tuple):
            return (F.dropout(out[0], share, module.training), *out[1:])
        return F.dropout(out, share, module.training)

    adding = [
        part for layer in layers(network) for part in layer.children() if any(p.ndim > 1 for p in part.parameters())
    ]
    return [part.register_forward_hook(dropped) for part in (core(network).get_input_embeddings(), *adding)]


def lengths(batch: Batch) -> list[int]:
    """Tokens of each sequence."""
    return [b - a for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]


def pool(states_TD: Tensor, batch: Batch) -> Tensor:
    """v_U, v_T|U, v_T as [3, B, D], fp32."""
    many, sizes = len(batch), torch.tensor(lengths(batch), device=states_TD.device)
    joint_B, alone_B, user_B = sizes[:many], sizes[many:], torch.arange(many, device=states_TD.device)
    # Segments as they lie in the row: U1, T1|U1, U2, T2|U2, …, T1, T2, …
    segment = torch.cat([torch.stack([user_B, many + user_B], 1).flatten(), 2 * many + user_B])
    size = torch.cat([torch.stack([batch.prompt_B, joint_B - batch.prompt_B], 1).flatten(), alone_B])
    segment_T = torch.repeat_interleave(segment, size, output_size=len(states_TD))
    sum_D = torch.zeros(3 * many, states_TD.shape[-1], device=states_TD.device)
    sum_D = sum_D.index_add(0, segment_T, states_TD.float())
    count = torch.cat([batch.prompt_B, joint_B - batch.prompt_B, alone_B])
    return (sum_D / count[:, None]).view(3, many, -1)


def _pad(sequences: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)


def _flat(padded: Tensor, sequences: Sequence[Tensor]) -> Tensor:
    """Padded rows one after the other again, without the padding."""
    return torch.cat([row[: len(sequence)] for row, sequence in zip(padded, sequences, strict=True)])


def suits(network: Any, kernel: str, dtype: torch.dtype) -> str:
    """Why this network cannot be packed; empty when a packed probe gives what the padded reference gives."""
    inner = core(network)
    was = inner.training
    probe = _probe(min(inner.config.get_text_config().vocab_size, 1000)).to(inner.device)
    inner.eval()
    try:
        padded = _seen(Towers(network, kernel="padded"), probe)
        packed = _seen(Towers(network, kernel=kernel, dtype=dtype), probe)
    except (TypeError, RuntimeError, AttributeError, ValueError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        inner.train(was)
    if len(padded) != len(packed):
        return "packed rows use other weights"
    gap = float((padded - packed).norm() / padded.norm())
    return "" if gap < (1e-4 if dtype == torch.float32 else 5e-2) else f"packed states or gradients differ by {gap:.1e}"


def _seen(towers: Towers, batch: Batch) -> Tensor:
    """What a kernel must get right forward and backward: vectors, token loss, and the norm of each gradient."""
    try:
        read = towers(batch)
        weights = [p for p in towers.core.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(read.vectors_3BD.square().sum() + read.nll, weights, allow_unused=True)
        norms = [gradient.float().norm()[None] for gradient in gradients if gradient is not None]
        return torch.cat([read.vectors_3BD.detach().flatten(), read.nll.detach()[None], *norms])
    finally:
        towers.close()


def _probe(vocabulary: int) -> Batch:
    """Two users, histories of 40 and 7 tokens and targets of 3 and 5."""
    before, alone = [40, 7], [3, 5]
    sizes = [b + a for b, a in zip(before, alone, strict=True)] + alone
    ids = torch.randint(0, vocabulary, (sum(sizes),), generator=torch.Generator().manual_seed(0))
    offsets = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    predict = torch.cat([torch.arange(offsets[i] + before[i] - 1, offsets[i + 1] - 1) for i in (0, 1)])
    positions = torch.cat([torch.arange(size) for size in sizes])
    return Batch(ids, positions, offsets, torch.tensor(before), predict, ids[predict + 1], torch.arange(2))
