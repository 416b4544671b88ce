"""The sampler by vLLM, for models that are large for the others; an optional package, needs a GPU."""

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calrec.config import GenerateConfig
from calrec.generate.draws import stream
from calrec.generate.samples import Prompt, Sample, merge_samples

_CHUNK = 1024  # prompts that are handed over at once, so that results stream


def sample(network: Any, prompts: Sequence[Prompt], end: int, config: GenerateConfig) -> Iterator[list[Sample]]:
    """`config.samples` independent continuations of each prompt, equal ones with their count, in the order given.

    vLLM reads the folder that the network was loaded from. Each user has an own seed, but vLLM's results still
    depend a little on what is decoded at the same time, as its kernels do. Where a text cannot begin with the end
    token, the log-probabilities of a user's texts are all lower by one number here: their first tokens compete with the
    end too.

    Raises:
        ValueError: vLLM is not installed, or the network was not loaded from a folder of a whole model.
    """
    if not importlib.util.find_spec("vllm"):
        raise ValueError(
            "generate.backend=vllm needs the package vllm and a GPU; pip install vllm, or use "
            "generate.backend=shared_prefix"
        )
    folder = Path(str(network.name_or_path))
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"generate.backend=vllm reads a model folder, and {folder} is none; save the model whole first"
        )
    from vllm import SamplingParams  # type: ignore[import-not-found]
    from vllm.inputs import TokensPrompt  # type: ignore[import-not-found]

    engine = _engine(str(folder))
    for start in range(0, len(prompts), _CHUNK):
        part = prompts[start : start + _CHUNK]
        options = [
            SamplingParams(
                n=config.samples,
                temperature=config.temperature,
                top_p=1.0,
                top_k=0,
                min_p=0.0,
                repetition_penalty=1.0,
                max_tokens=config.max_new_tokens,
                min_tokens=int(prompt.barred is not None),
                ignore_eos=True,
                stop_token_ids=[end],
                seed=int(stream(config.seed, prompt.user).integers(2**31)),
                logprobs=0,
                detokenize=False,
            )
            for prompt in part
        ]
        asked = [TokensPrompt(prompt_token_ids=prompt.ids.tolist()) for prompt in part]
        for answer in engine.generate(asked, options, use_tqdm=False):
            yield merge_samples([_sample(output, end) for output in answer.outputs])


@functools.cache
def _engine(folder: str) -> Any:
    """The model in vLLM, loaded once."""
    from vllm import LLM

    # generation_config: what a checkpoint stored must not fill in anything. raw_logprobs: those at temperature 1.
    return LLM(folder, generation_config="vllm", logprobs_mode="raw_logprobs", enable_prefix_caching=True)


def _sample(output: Any, end: int) -> Sample:
    tokens = list(output.token_ids)
    logprob = sum(float(at[token].logprob) for token, at in zip(tokens, output.logprobs, strict=True))
    finished = bool(tokens) and tokens[-1] == end
    return Sample(tuple(tokens[:-1] if finished else tokens), logprob, finished)
