"""Continuations of users' prompts by our sampler, with and without merging, against transformers' `generate`.

    make bench STEP=generate
    PYTHONPATH=components python -m tests.benchmarks.generate --device cuda --size 135M --out generate.json

On a CPU: a Llama of 10M parameters, fp32, one thread, first trained for some minutes on a catalogue of random items, so
that its distributions are peaked as those of a fine-tuned model are; it is kept below build/bench/. With a GPU, the
second command: 135M parameters, bf16, and vLLM if it is installed. The weights are random there: no text ends before
64 tokens, and no two are alike. It needs torch, transformers, accelerate and numpy, neither a pipeline nor a network.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calrec.config import GenerateConfig, StageConfig
from calrec.finetune.batches import Row, collate
from calrec.finetune.gradients import backward
from calrec.finetune.optimizer import adamw, rate
from calrec.finetune.ranks import Ranks
from calrec.finetune.towers import Towers
from calrec.generate import shared_prefix
from calrec.generate.decoder import suits
from calrec.generate.samples import Prompt, Sample
from calrec.textify.tokens import TokenCache
from tests.benchmarks.training_rows import FIRST_WORD, LLAMAS, llama

Figures = dict[str, Any]
END, ITEMS, PHRASES, SUCCESSORS, SHORTEST, LONGEST = 2, 80, 200, 8, 24, 63
PROMPT = (300, 430)  # tokens
CONFIG = GenerateConfig(samples=32, temperature=0.5, max_new_tokens=64)
TRAINED = StageConfig(train_on="all", steps=500, lr=3e-3, warmup=0.1, schedule="cosine", alpha=0.0, beta=0.0)
TRAINED_USERS = 1
FOLDER = Path("build/bench")
HF_USERS = 4
DEFAULTS: dict[str, Figures] = {"cpu": {"size": "10M", "users": 16}, "cuda": {"size": "135M", "users": 256}}


class World:
    """A catalogue of random items, and users who go from item to item: 8 may follow each, by Zipf's law."""

    def __init__(self, vocabulary: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        phrases = [words(vocabulary, size, rng) for size in rng.integers(2, 7, PHRASES)]
        items = [text(phrases, size, rng) for size in rng.integers(SHORTEST, LONGEST + 1, ITEMS)]
        units = TokenCache.units_of(words(vocabulary, 6, rng), words(vocabulary, 4, rng), items)
        self.cache = TokenCache(units, end=END, max_tokens=PROMPT[1])
        self.following = np.array([rng.permutation(ITEMS)[:SUCCESSORS] for _ in range(ITEMS)])
        share = 1 / np.arange(1, SUCCESSORS + 1)
        self.share = share / share.sum()

    def row(self, rng: np.random.Generator) -> Row:
        """A user whose prompt has 300 to 430 tokens."""
        wanted, visited = rng.integers(PROMPT[0] + LONGEST // 2, PROMPT[1] + 1), [int(rng.integers(ITEMS))]
        tokens = len(self.cache.opening) + self.cache.units.lengths(np.array(visited))[0]
        while True:
            visited.append(int(rng.choice(self.following[visited[-1]], p=self.share)))
            tokens += self.cache.units.lengths(np.array(visited[-1:]))[0]
            if tokens > wanted:
                return Row(visited[:-1], visited[-1])

    def rows(self, many: int, seed: int) -> list[Row]:
        """So many users."""
        rng = np.random.default_rng(seed)
        return [self.row(rng) for _ in range(many)]


def text(phrases: Sequence[Any], size: int, rng: np.random.Generator) -> Any:
    """Phrases, cut to so many tokens."""
    drawn = (len(phrases) ** rng.random(size)).astype(int) - 1
    return np.concatenate([phrases[i] for i in drawn])[:size]


def words(vocabulary: int, size: int, rng: np.random.Generator) -> Any:
    """Tokens by Zipf's law: log-uniform ranks."""
    ranks = (vocabulary - FIRST_WORD) ** rng.random(size)
    return (FIRST_WORD - 1 + ranks).astype(np.int32)


# --- the model ---------------------------------------------------------------------------------------------------


def trained(world: World, size: str) -> Any:
    """A model that knows the world; trained when it is not there yet."""
    from transformers import LlamaForCausalLM

    recipe = [LLAMAS[size], repr(TRAINED), TRAINED_USERS, ITEMS, PHRASES, SUCCESSORS, SHORTEST, LONGEST, PROMPT]
    folder = FOLDER / f"generate-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        network = llama(size, "cpu")
        train(network, world)
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        network.save_pretrained(unfinished)
        unfinished.rename(folder)
    return LlamaForCausalLM.from_pretrained(folder).eval()


def train(network: Any, world: World) -> None:
    """Next-token loss of every item of each history and of the target, with our own training step."""
    towers, optimizer, groups = Towers(network), adamw(network, TRAINED), np.arange(ITEMS, dtype=np.int32)
    rng, start = np.random.default_rng(1), time.perf_counter()
    for step in range(TRAINED.steps):
        batch = collate([world.row(rng) for _ in range(TRAINED_USERS)], world.cache, groups, TRAINED.train_on)
        loss = backward(towers, [batch], TRAINED, Ranks()).nig
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = TRAINED.lr * rate(step, TRAINED)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 19:
            passed = time.perf_counter() - start
            print(f"  step {step + 1}: {loss:.2f} nats per token, {passed:.0f} s", file=sys.stderr, flush=True)
    towers.close()


# --- what is timed -----------------------------------------------------------------------------------------------


def generate(options: argparse.Namespace | None = None) -> Figures:
    """Figures of the trained model on the CPU, one thread."""
    torch.set_num_threads(1)
    options = options or _options([])
    world = World(LLAMAS[options.size]["vocab_size"])
    rows = world.rows(options.users, seed=7)
    network = trained(world, options.size)
    peaked = {"nats_per_target_token": nats(network, world, rows)}
    return compared(network, prompts_of(world, rows), options, peaked)


def on_gpu(options: argparse.Namespace) -> Figures:
    """Figures of random weights in bf16; agreement is checked in fp32 before."""
    world = World(LLAMAS[options.size]["vocab_size"])
    network = llama(options.size, options.device).eval()
    return compared(network, prompts_of(world, world.rows(options.users, seed=7)), options, {})


def compared(network: Any, prompts: list[Prompt], options: argparse.Namespace, about: Figures) -> Figures:
    """Time all in turns. transformers' turn is four of the users, other ones in each round, since it takes so long."""
    check(network, prompts[:HF_USERS])
    if options.device == "cuda":
        network = network.bfloat16()
    timer, samples = Timer(options.device), {}
    for turn in range(options.rounds):
        few = [prompts[(turn * HF_USERS + i) % len(prompts)] for i in range(HF_USERS)]
        timer.run("hf", HF_USERS, lambda few=few: [hf(network, [prompt]) for prompt in few])
        timer.run("hf, 4 users", HF_USERS, lambda few=few: [hf(network, few)])
        for name, merge in (("ours", False), ("ours, merged", True)):
            samples[name] = timer.run(name, len(prompts), lambda merge=merge: ours(network, prompts, merge))
    merged, seconds = samples["ours, merged"], timer.medians()
    new = statistics.mean(new_tokens(user) for user in merged)
    figures = {
        "what": f"{CONFIG.samples} continuations of each of {len(prompts)} users, Llama {options.size}, "
        f"{options.device}: prompts read once, equal beginnings computed once, against transformers' generate by user",
        **timer.ratio("hf", "ours, merged"),
        "unmerged": timer.ratio("hf", "ours"),
        "to_hf_4_users": timer.ratio("hf, 4 users", "ours, merged"),
        "unmerged_to_hf_4_users": timer.ratio("hf, 4 users", "ours"),
        "seconds_per_user": seconds,
        "new_tokens_per_second": {name: new / each for name, each in seconds.items()},
        "new_tokens_per_sample": new / CONFIG.samples,
        "prompt_tokens": statistics.mean(len(prompt.ids) for prompt in prompts),
        **about,
        "distinct_texts": statistics.mean(len(user) for user in merged),
        "share_of_rows": statistics.mean(distinct_tokens(user) / new_tokens(user) for user in merged),
        "rounds": options.rounds,
    }
    if options.device == "cuda" and importlib.util.find_spec("vllm"):
        figures["vllm_seconds_per_user"] = vllm_seconds(network, prompts)
    return figures


class Timer:
    """Seconds per user of each path, round by round."""

    def __init__(self, device: str):
        self.device = device
        self.found: dict[str, list[float]] = {}

    def run(self, name: str, users: int, path: Callable[[], Any]) -> Any:
        """Time it once."""
        self.wait()
        start = time.perf_counter()
        done = path()
        self.wait()
        self.found.setdefault(name, []).append((time.perf_counter() - start) / users)
        print(f"  {name}: {self.found[name][-1]:.3f} s per user", file=sys.stderr, flush=True)
        return done

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def medians(self) -> dict[str, float]:
        """Of each path."""
        return {name: statistics.median(each) for name, each in self.found.items()}

    def ratio(self, reference: str, path: str) -> Figures:
        """How often the path fits into the reference."""
        ratios = [b / a for a, b in zip(self.found[path], self.found[reference], strict=True)]
        return {"ratio": statistics.median(ratios), "ratio_min": min(ratios)}


def ours(network: Any, prompts: Sequence[Prompt], merge: bool) -> list[list[Sample]]:
    """The default sampler, with or without merging."""
    return list(shared_prefix.sample(network, prompts, END, replace(CONFIG, merge=merge)))


@torch.no_grad()
def hf(network: Any, prompts: Sequence[Prompt], tokens: int = CONFIG.max_new_tokens) -> Any:
    """As a user of transformers writes it: some prompts, padded on the left."""
    ids = [torch.from_numpy(prompt.ids.astype(np.int64)) for prompt in prompts]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_side="left")
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True, padding_side="left")
    return network.generate(
        padded.to(network.device),
        attention_mask=mask.to(network.device),
        do_sample=True,
        temperature=CONFIG.temperature,
        top_k=0,
        num_return_sequences=CONFIG.samples,
        max_new_tokens=tokens,
        eos_token_id=END,
        pad_token_id=0,
    )


def vllm_seconds(network: Any, prompts: Sequence[Prompt]) -> float:
    """Of vLLM for a user more: the time for all less that for one, so that its start does not count."""
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from calrec.generate import vllm

    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<e>").save_pretrained(folder)
        saved, seconds = AutoModelForCausalLM.from_pretrained(folder), []
        for some in (prompts[:1], prompts):
            start = time.perf_counter()
            list(vllm.sample(saved, some, END, CONFIG))
            seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / (len(prompts) - 1)


# --- agreement, and how peaked the model is ----------------------------------------------------------------------


def check(network: Any, prompts: Sequence[Prompt]) -> None:
    """Merging changes no sample, and a plain forward pass gives every log-probability; it warms up, too."""
    assert not suits(network), suits(network)
    hf(network, prompts[:1], tokens=2)
    merged, apart = (ours(network, prompts, merge) for merge in (True, False))
    same = [[(s.tokens, s.finished, s.count) for user in found for s in user] for found in (merged, apart)]
    assert same[0] == same[1], "merged samples differ from those that were not merged"
    for prompt, user in zip(prompts, apart, strict=True):
        for one in user:
            by_hand = float(logprobs(network, prompt.ids, [*one.tokens, *[END][: one.finished]]).sum())
            assert abs(one.logprob - by_hand) < 1e-4, f"log-probability {one.logprob}, by a plain pass {by_hand}"


@torch.no_grad()
def logprobs(network: Any, prompt: Any, target: Sequence[int]) -> torch.Tensor:
    """Of each token of a target, by the model's own forward pass."""
    ids = torch.tensor([[*prompt.tolist(), *target]], device=network.device)
    logits = network(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def nats(network: Any, world: World, rows: Sequence[Row]) -> float:
    """Mean negative log-probability of a token of the users' true next items."""
    each = [logprobs(network, world.cache.history(r.history)[0], world.cache.target(r.target).tolist()) for r in rows]
    return -float(torch.cat(each).mean())


def prompts_of(world: World, rows: Sequence[Row]) -> list[Prompt]:
    """The users' prompts."""
    return [Prompt(f"user {i}", world.cache.history(row.history)[0]) for i, row in enumerate(rows)]


def new_tokens(samples: Sequence[Sample]) -> int:
    """Tokens of all samples of a user, end tokens included."""
    return sum((len(one.tokens) + one.finished) * one.count for one in samples)


def distinct_tokens(samples: Sequence[Sample]) -> int:
    """As many, those of equal beginnings counted once."""
    drawn = [(*one.tokens, *[END][: one.finished]) for one in samples]
    return len({tokens[: i + 1] for tokens in drawn for i in range(len(tokens))})


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generate", description="Time the samplers.")
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu")
    parser.add_argument("--size", choices=list(LLAMAS), help="default by device")
    parser.add_argument("--users", type=int, help="default by device")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    for key, value in DEFAULTS[options.device].items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


def main(arguments: list[str]) -> int:
    """Measure on a GPU, or as `make bench` does, and print the figures."""
    options = _options(arguments)
    figures = on_gpu(options) if options.device == "cuda" else generate(options)
    print(json.dumps(figures, indent=1))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
