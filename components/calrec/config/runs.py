"""Named runs: functions that return a whole configuration; each docstring states hardware, time and score."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence

from calrec.config import (
    Config,
    EvaluateConfig,
    GenerateConfig,
    ModelConfig,
    RetrieveConfig,
    Source,
    StageConfig,
    TextConfig,
)
from calrec.config.overrides import override, unknown


def sample() -> Config:
    """Four grocery departments of the embedded sample, two of them targets; a 0.8M-parameter model from scratch.

    Hardware: 2 CPU cores. Time, memory and score: RESULTS.md, `make run`.
    """
    stage = StageConfig(batch_size=16, lr=3e-3, train_on="all", valid_every=100, checkpoint_every=200)
    return Config(
        sources=tuple(
            Source(name, f"sample:{department}")
            for name, department in (
                ("nutrition", "NUTRITION"),
                ("packaged-meat", "MEAT-PCKGD"),
                ("deli", "DELI"),
                ("pastry", "PASTRY"),
            )
        ),
        targets=("nutrition", "packaged-meat"),
        text=TextConfig(max_tokens=256, max_item_tokens=32),
        model=ModelConfig(size="small", vocab_size=2048),
        stage1=dataclasses.replace(stage, steps=1000),
        stage2=dataclasses.replace(stage, steps=300, lr=1e-3, threads=1),
        generate=GenerateConfig(max_new_tokens=32, max_users=200, threads=1),
    )


def tiny() -> Config:
    """Three small departments, a few steps of a 0.1M-parameter model: the tests' run.

    Hardware: 2 CPU cores. Time: about a minute. Score: none worth having.
    """
    stage = StageConfig(
        steps=6, batch_size=8, train_on="all", valid_every=3, valid_users=16, checkpoint_every=3, threads=1
    )
    return Config(
        sources=tuple(Source(name.lower(), f"sample:{name}") for name in ("COSMETICS", "PASTRY", "SEAFOOD")),
        targets=("cosmetics", "seafood"),
        text=TextConfig(max_tokens=96, max_item_tokens=24),
        model=ModelConfig(size="tiny", vocab_size=512),
        stage1=stage,
        stage2=dataclasses.replace(stage, steps=4),
        refit=dataclasses.replace(stage, steps=2, until="test"),
        generate=GenerateConfig(samples=4, max_new_tokens=16, max_users=20, threads=1),
        evaluate=EvaluateConfig(bootstrap=100),
    )


def paper() -> Config:
    """The paper's setting as far as it is known: Amazon 2018, six targets, a pretrained causal LM, 32 samples.

    The sources are folders named after the categories below `data/`; give your own with `--source NAME=URI`.
    Hardware: GPUs; not run by us yet, so no time and no score is claimed.
    """
    targets = ("scientific", "instruments", "arts", "office", "games", "pet")
    return Config(
        sources=tuple(Source(name, f"data/{name}") for name in targets),
        targets=targets,
        model=ModelConfig(name="HuggingFaceTB/SmolLM2-135M"),
        stage1=StageConfig(steps=20_000, batch_size=64, lr=1e-4, valid_every=500, checkpoint_every=500),
        stage2=StageConfig(steps=5_000, batch_size=64, lr=5e-5, valid_every=250, checkpoint_every=250),
    )


def study() -> Config:
    """Row `paper` of the study: the method of PAPER.md on three Amazon sets, at the size of two CPU cores.

    A 1.6M-parameter model from scratch, 48,000 users of joint training and 16,000 per target, 8,000 test users. Titles
    and brands only: these sets have one category each and no price. Items already bought are left out for every method,
    since at most 0.4 % of the targets are such. Hardware: one CPU core. Time and score: RESULTS.md.
    """
    sets = ("scientific2018", "beauty2014", "games2018")
    stage = StageConfig(batch_size=32, valid_users=512, checkpoint_every=250, threads=1)
    return Config(
        sources=tuple(Source(name, f"data/{name}") for name in sets),
        targets=sets,
        text=TextConfig(attributes=("title", "brand"), max_tokens=256, max_item_tokens=48),
        model=ModelConfig(size="small", vocab_size=8192),
        stage1=dataclasses.replace(stage, steps=1500, lr=3e-3, valid_every=250),
        stage2=dataclasses.replace(stage, steps=500, lr=1e-3, valid_every=125),
        generate=GenerateConfig(max_new_tokens=49, max_users=8000, threads=1),
        retrieve=RetrieveConfig(exclude_seen=True, threads=1),
    )


def best() -> Config:
    """Row `best` of the study: chosen on validation users of scientific2018, see DECISIONS.md.

    Whole item texts are tokens that begin where their words point; histories have no phrases, and all their items are
    predicted, with dropout, on the target's set alone, without the contrastive terms; at last the validation items are
    learned too, a tenth of the steps. The candidates of a beam search,
    of BM25 and of co-occurrence are ranked by learned fusion. A new item's text needs training before it can be
    written. Hardware: one CPU core. Time and score: RESULTS.md.
    """
    config = study()
    stage2 = StageConfig(
        steps=1320,
        batch_size=128,
        lr=2e-3,
        alpha=0.0,
        beta=0.0,
        weight_decay=0.1,
        dropout=0.5,
        train_on="all",
        position="last",
        keep="last",
        valid_every=200,
        valid_users=1000,
        threads=1,
    )
    return dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, max_item_tokens=64, phrases=False),
        model=ModelConfig(size="small", vocab_size=2048, whole_texts=1),
        stage1=dataclasses.replace(config.stage1, steps=0),
        stage2=stage2,
        refit=dataclasses.replace(stage2, steps=132, lr=1e-3, until="test", valid_every=0),
        generate=GenerateConfig(trie="beam", samples=50, max_users=8000, threads=1),
        retrieve=RetrieveConfig(exclude_seen=True, rerank=100, fusion_users=4000, threads=1),
    )


RUNS: Mapping[str, Callable[[], Config]] = types.MappingProxyType(
    {"sample": sample, "tiny": tiny, "paper": paper, "study": study, "best": best}
)


def get_run(name: str) -> Config:
    """The named run; a ValueError lists the names when there is none."""
    if name not in RUNS:
        raise unknown("run", name, list(RUNS))
    return RUNS[name]()


ABLATIONS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "no-stage1": ("stage1.steps=0",),
        "stage1-only": ("stage2.steps=0",),
        "no-contrastive": ("stage1.alpha=0", "stage1.beta=0", "stage2.alpha=0", "stage2.beta=0"),
        "tt-only": ("stage1.beta=0", "stage2.beta=0"),
        "ut-only": ("stage1.alpha=0", "stage2.alpha=0"),
        "negative-beta": ("stage1.beta=-0.025", "stage2.beta=-0.025"),
        "direction-user": ("stage1.direction=user", "stage2.direction=user"),
        "direction-target": ("stage1.direction=target", "stage2.direction=target"),
        "train-on-last": ("stage1.train_on=last", "stage2.train_on=last"),
        "train-on-all": ("stage1.train_on=all", "stage2.train_on=all"),
        "lora": ("model.tuning=lora",),
        "temperature-1": ("generate.temperature=1",),
        "samples-8": ("generate.samples=8",),
        "exclude-seen": ("retrieve.exclude_seen=true",),
        "include-seen": ("retrieve.exclude_seen=false",),
        # Beyond the paper:
        "last-title": ("retrieve.last_title=1",),
        "dense": ("retrieve.dense=100",),
        "trie": ("generate.trie=sample",),
        "beam": ("generate.trie=beam",),
        "rerank": ("retrieve.rerank=100", "retrieve.dense=100"),
    }
)
"""What is changed of a run, by name; each leaves what comes before it in the pipeline to the cache."""


def apply_ablations(config: Config, names: Sequence[str]) -> Config:
    """The configuration with the settings of these ablations, one after the other."""
    for name in names:
        if name not in ABLATIONS:
            raise unknown("ablation", name, list(ABLATIONS))
        config = override(config, ABLATIONS[name])
    return config
