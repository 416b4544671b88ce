"""What a model's folder says of its making."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calrec import artifacts
from calrec.finetune.step import finetune
from calrec.model import checkpoint
from calrec.model.origin import Origin, base_of, origin_of
from tests.finetune.test_training import STAGE


@pytest.mark.parametrize(
    ("stages", "tuning", "adapter"),
    [
        (["full 0"], "none", False),
        (["full 4", "full 0"], "full", False),
        (["lora 4", "lora 4", "lora 0"], "lora", True),
        (["lora 0", "lora 4"], "lora", True),
        (["full 4", "lora 4"], "full", False),
        (["lora 4", "full 4"], "full", False),
    ],
)
def test_a_model_knows_its_base_after_each_stage(
    small: SimpleNamespace, tmp_path: Path, stages: list[str], tuning: str, adapter: bool
):
    start = small.base
    for number, stage in enumerate(stages):
        how, steps = stage.split()
        settings = replace(small.model, tuning=how, lora_rank=2)
        out = tmp_path / str(number)
        finetune(small.texts, small.tokens, start, out, replace(STAGE, steps=int(steps)), settings)
        start = out
    assert base_of(start) == {
        "base_model": "scratch",
        "base_digest": artifacts.read_manifest(small.base).digest,
        "tuning": tuning,
        "adapter": adapter,
        "parameters": sum(p.numel() for p in checkpoint.load(small.base)[0].parameters()),
    }


def test_a_base_model_is_its_own_base(small: SimpleNamespace):
    made = artifacts.read_manifest(small.base)
    assert origin_of(made) == Origin("scratch", made.digest, "none")
    assert base_of(small.base)["parameters"] == made.counts["parameters"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"stage": "stage2", "model": {"name": "shop/llm", "tuning": "lora"}}, Origin("shop/llm", "", "lora")),
        ({}, Origin("", "", "full")),
    ],
)
def test_a_manifest_of_before_says_what_it_knows(config: dict[str, Any], expected: Origin):
    assert origin_of(artifacts.Manifest("model", config)) == expected
