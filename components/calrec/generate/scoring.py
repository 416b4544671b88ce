"""Exact log-probabilities of given item texts after a prompt, log p(item text | history).

Shape suffixes: R rows, one for each prompt and candidate, T tokens of all rows, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calrec.arrays.ragged import Ints, Ragged, running, spans
from calrec.generate.attention import Branches, Prompts
from calrec.generate.decoder import Decoder, bytes_per_token
from calrec.generate.samples import Prompt, bar, not_finite

Floats = NDArray[np.float64]


def logprobs(
    network: Any, prompts: Sequence[Prompt], candidates: Sequence[Ints], items: Ragged, memory: float
) -> Iterator[Floats]:
    """Log-probability at temperature 1 of each prompt's candidates, end token included.

    A prompt is read once, and its candidates in packed passes over those of like length, as many as memory allows.

    Args:
        network: a causal LM whose prompts can be shared.
        prompts: of all users.
        candidates: rows of `items` for each prompt, in any order.
        items: token ids of each item text, closed by the end token.
        memory: bytes for keys, values and logits of one pass.

    Raises:
        FloatingPointError: the model's logits are not finite; names the user.
    """
    tokens = max(1, int(memory / sum(bytes_per_token(network))))
    for prompt, wanted in zip(prompts, candidates, strict=True):
        with Decoder(network) as decoder:
            found = _of_prompt(decoder, prompt, items, np.asarray(wanted, dtype=np.int64), tokens)
        yield found


@torch.no_grad()
def _of_prompt(decoder: Decoder, prompt: Prompt, items: Ragged, wanted: Ints, tokens: int) -> Floats:
    """Of one prompt's candidates, about so many tokens in one pass, none more than twice as long as another."""
    read, logits_1V, _ = decoder.prefill([prompt.ids])
    bar(logits_1V, [prompt])
    lengths = items.lengths(wanted)
    first = torch.from_numpy(items.flat[items.offsets[wanted]].astype(np.int64)).to(logits_1V.device)
    total: Floats = logits_1V[0].log_softmax(-1)[first].double().cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 1]
    room, likeness = np.cumsum(lengths[order]) // tokens, np.ceil(np.log2(lengths[order]))
    for part in np.split(order, np.flatnonzero((np.diff(room) > 0) | (np.diff(likeness) > 0)) + 1):
        if len(part):
            total[part] += _rest(decoder, read, items, wanted[part])
    if np.isnan(total).any():
        raise not_finite(prompt.user, len(prompt.ids))
    return total


def _rest(decoder: Decoder, read: Prompts, items: Ragged, wanted: Ints) -> Floats:
    """Log-probability of each item's tokens behind the first, in one pass."""
    sizes, starts = items.lengths(wanted) - 1, items.offsets[wanted]
    fed, labels = (items.flat[spans(starts + shift, sizes)].astype(np.int64) for shift in (0, 1))
    branches = Branches(read, torch.zeros(len(wanted), dtype=torch.long, device=decoder.device))
    ids_T, size_R = (torch.from_numpy(each).to(decoder.device) for each in (fed, sizes))
    logprob_T = _log_softmax_at(decoder.extend(branches, ids_T, size_R), labels)
    return np.add.reduceat(logprob_T, running(sizes)[:-1])


def _log_softmax_at(logits_TV: Any, token_T: NDArray[Any]) -> Floats:
    at = torch.from_numpy(token_T.astype(np.int64)).to(logits_TV.device)
    logprob_T = logits_TV.gather(1, at[:, None])[:, 0] - logits_TV.logsumexp(-1)
    found: Floats = logprob_T.double().cpu().numpy()
    return found
