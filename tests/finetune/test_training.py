"""A whole stage on a real tiny model."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BloomConfig, BloomForCausalLM

from calrec import artifacts
from calrec.config import GenerateConfig, RetrieveConfig, StageConfig
from calrec.finetune.step import finetune
from calrec.generate.step import generate
from calrec.model import checkpoint
from calrec.model.loading import load_model, load_users
from calrec.retrieve.evidence import Fusion
from calrec.retrieve.step import retrieve
from calrec.retrieve.stored import build

STAGE = StageConfig(
    steps=8, batch_size=4, lr=3e-3, train_on="all", valid_every=4, valid_users=16, checkpoint_every=4, threads=1
)  # fmt: skip


def run(small: SimpleNamespace, out: Path, stage: StageConfig = STAGE, **options: Any) -> artifacts.Manifest:
    tuning = options.pop("tuning", small.model)
    done = finetune(small.texts, small.tokens, options.pop("model", small.base), out, stage, tuning, **options)
    assert done is not None
    return done


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def equal(a: Path, b: Path) -> bool:
    return all(torch.equal(x, weights(b)[name]) for name, x in weights(a).items())


# --- the loop ---------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_learns_the_pattern(small: SimpleNamespace, tmp_path: Path):
    points: list[tuple[int, dict[str, float]]] = []
    stage = replace(STAGE, steps=60, valid_every=20, batch_size=8)
    manifest = run(small, tmp_path / "m", stage, log=lambda step, metrics: points.append((step, metrics)))
    valid = [metrics["valid_nig"] for _, metrics in points if "valid_nig" in metrics]
    assert valid[-1] < 0.5 * valid[0]
    assert manifest.counts["best_step"] == 60 and manifest.counts["best_valid_nig"] == min(valid)
    assert any({"loss", "nig", "tt", "ut", "lr", "grad_norm"} <= metrics.keys() for _, metrics in points)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small: SimpleNamespace, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(small, tmp_path / name, replace(STAGE, seed=seed))
    assert equal(tmp_path / "a", tmp_path / "b") and not equal(tmp_path / "a", tmp_path / "c")


def test_the_reference_and_packed_rows_learn_the_same(small: SimpleNamespace, tmp_path: Path):
    for name, settings in (("a", {}), ("b", {"attention": "padded"}), ("c", {"micro_tokens": 250})):
        run(small, tmp_path / name, replace(STAGE, **settings))
    for name in ("b", "c"):
        for key, value in weights(tmp_path / "a").items():
            assert torch.allclose(value, weights(tmp_path / name)[key], atol=2e-4), (name, key)


def test_a_compiled_stage_learns_the_same(small: SimpleNamespace, tmp_path: Path):
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    nig = [
        run(small, tmp_path / name, replace(STAGE, steps=6, compile=compiled)).counts["best_valid_nig"]
        for name, compiled in (("a", False), ("b", True))
    ]
    assert nig[0] == pytest.approx(nig[1], rel=1e-4)


def test_lora_trains_adapters_only_and_leaves_plain_weights(small: SimpleNamespace, tmp_path: Path):
    run(small, tmp_path / "m", tuning=replace(small.model, tuning="lora", lora_rank=2, lora_dropout=0.1))
    assert weights(tmp_path / "m").keys() == weights(small.base).keys()
    same = {name for name, value in weights(small.base).items() if torch.equal(value, weights(tmp_path / "m")[name])}
    assert same and all("proj" not in name for name in same) and len(same) < len(weights(small.base))


def test_the_moving_average_is_what_is_validated_and_kept(small: SimpleNamespace, tmp_path: Path):
    found = [run(small, tmp_path / str(ema), replace(STAGE, ema=ema)).counts["best_valid_nig"] for ema in (0.0, 0.5)]
    assert found[0] < found[1]  # in eight steps of a falling loss the average lags
    again = run(small, tmp_path / "again", replace(STAGE, steps=0), model=tmp_path / "0.5")
    assert not equal(tmp_path / "0.0", tmp_path / "0.5") and equal(tmp_path / "again", tmp_path / "0.5")
    assert again.counts["steps"] == 0


@pytest.mark.parametrize("valid_every", [8, 0])
def test_the_last_weights_are_the_averages_too(small: SimpleNamespace, tmp_path: Path, valid_every: int):
    stage = replace(STAGE, ema=0.5, valid_every=8)
    assert run(small, tmp_path / "best", stage).counts["best_step"] == 8  # so the best weights are the last averages
    run(small, tmp_path / "last", replace(stage, keep="last", valid_every=valid_every))
    assert equal(tmp_path / "last", tmp_path / "best")


def test_ndcg_may_choose_the_best(small: SimpleNamespace, tmp_path: Path):
    points: list[tuple[int, dict[str, float]]] = []
    log = lambda step, metrics: points.append((step, metrics))  # noqa: E731
    manifest = run(small, tmp_path / "m", replace(STAGE, steps=20, valid_metric="ndcg"), log=log)
    valid = {step: metrics["valid_ndcg"] for step, metrics in points if "valid_ndcg" in metrics}
    best = max(valid.values())
    assert manifest.counts["best_valid_ndcg"] == best
    assert manifest.counts["best_step"] == next(step for step, value in valid.items() if value == best)


def test_weights_of_the_mix_must_name_what_is_trained_on(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match=r"mix = home=1 must name each category that is trained on.*: garden, home"):
        run(small, tmp_path / "m", replace(STAGE, mix="home=1"))


def test_the_arithmetic_is_said_first(small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(small, tmp_path / "m", replace(STAGE, micro_tokens=250, negatives="ranks"))
    lines = capsys.readouterr().out.splitlines()
    assert "90 of 90 users train; 8 steps of 4 users = 0.4 epochs of 22 steps; 0 to 1 negatives per anchor" in lines[0]
    assert "packed rows on each of 1 processes" in lines[1] and "attention loop, float32; 1 threads" in lines[1]
    assert "GiB expected" in lines[1]


def test_an_architecture_that_cannot_be_packed_is_trained_padded_and_said(
    small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base = tmp_path / "base"
    shutil.copytree(small.base, base)
    tokenizer = load_model(small.base, small.tokens, small.texts)[1]
    with artifacts.writing(base) as folder:
        checkpoint.save(
            BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4)),
            tokenizer,
            folder,
        )
        artifacts.finish(folder, artifacts.Manifest("model"))
    done = finetune(small.texts, small.tokens, base, tmp_path / "m", replace(STAGE, steps=2), small.model)
    assert done is not None and done.counts["attention"] == "padded"
    assert "BloomForCausalLM cannot be packed (loop: packed states or gradients differ by" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"attention = loop does not work for BloomForCausalLM here .*; use auto"):
        finetune(small.texts, small.tokens, base, tmp_path / "n", replace(STAGE, attention="loop"), small.model)


def test_zero_steps_pass_the_model_through(small: SimpleNamespace, tmp_path: Path):
    run(small, tmp_path / "m", replace(STAGE, steps=0))
    assert equal(tmp_path / "m", small.base)


def test_patience_ends_the_stage_with_the_best_weights(small: SimpleNamespace, tmp_path: Path):
    stage = replace(
        STAGE, steps=200, lr=3.0, clip=1e9, valid_every=2, patience=2
    )  # far too fast: never better than step 0
    manifest = run(small, tmp_path / "m", stage)
    assert manifest.counts["steps"] < 200
    assert manifest.counts["best_step"] == 0 and equal(tmp_path / "m", small.base)


def test_stage_two_trains_on_its_target_alone(small: SimpleNamespace, tmp_path: Path):
    manifest = run(small, tmp_path / "m", name="stage2", domains=["garden"])
    assert manifest.counts["users"] == 50
    assert manifest.config["domains"] == ["garden"]


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_refit_reads_the_validation_items_too_and_says_so(small: SimpleNamespace, tmp_path: Path):
    users = load_users(small.texts)
    longer = users.trained_until("test")
    assert users.trained_until("valid") is users
    held = users.test_at >= 0
    assert (longer.train_end[held] == users.test_at[held]).all() and (longer.valid_at == -1).all()
    assert longer.train_end[~held].tolist() == [
        len(items) for items, it in zip(users.items, held, strict=True) if not it
    ]
    assert (longer.train_end > users.train_end).any()

    plain = run(small, tmp_path / "plain")
    refit = run(small, tmp_path / "refit", replace(STAGE, until="test"), name="refit")
    assert "until" not in plain.config and refit.config["until"] == "test"
    assert "best_step" not in refit.counts and not equal(tmp_path / "plain", tmp_path / "refit")
    after = run(small, tmp_path / "after", STAGE, name="stage2", model=tmp_path / "refit")
    assert after.config["until"] == "test"  # what a stage before has seen is not forgotten
    untouched = run(small, tmp_path / "none", replace(STAGE, steps=0, until="test"), name="refit")
    assert "until" not in untouched.config and equal(tmp_path / "none", small.base)


def test_a_model_that_saw_the_validation_items_is_not_judged_by_them(small: SimpleNamespace, tmp_path: Path):
    run(small, tmp_path / "refit", replace(STAGE, until="test"), name="refit", domains=["home"])
    given = (small.texts, small.tokens, tmp_path / "refit")
    sampling = GenerateConfig(samples=2, max_users=4, max_new_tokens=8, threads=1)
    with pytest.raises(ValueError, match="was trained on the validation items"):
        generate(*given, tmp_path / "g", "home", replace(sampling, split="valid"))
    generate(*given, tmp_path / "g", "home", sampling)
    fused = RetrieveConfig(rerank=5, fusion_users=20, threads=1)
    made = (small.texts, tmp_path / "g", tmp_path / "r", fused, tmp_path / "refit", small.tokens)
    with pytest.raises(ValueError, match=r"learns from validation items, and .*refit was trained on them .* --learner"):
        retrieve(*made)
    assert retrieve(*made, small.base).counts["fusion_users"] > 0
    with pytest.raises(ValueError, match="give the model before its refit as --learner"):
        build(small.texts, small.tokens, tmp_path / "refit", "home", tmp_path / "i", fused, sampling=sampling)
    build(small.texts, small.tokens, tmp_path / "refit", "home", tmp_path / "i", fused, None, sampling, small.base)
    assert Fusion.load(tmp_path / "i") == Fusion.load(tmp_path / "r")


def test_a_loss_that_is_not_finite_stops_before_the_step(small: SimpleNamespace, tmp_path: Path):
    """A learning rate far too high overflows the weights; the checkpoint before it stays usable."""
    stage = replace(STAGE, lr=1e38, clip=1e9, warmup=0.0, weight_decay=0.0, steps=30, checkpoint_every=1)
    with pytest.raises(
        FloatingPointError,
        match=r"stage1: loss is \w+ at step \d+ .*lower lr \(now 1e\+38\).*users of the batch: u\d+, u",
    ):
        run(small, tmp_path / "m", stage)
    assert not (tmp_path / "m").exists()
    assert list((tmp_path / "m.checkpoint").glob("step-*/state.json"))


def test_a_batch_larger_than_the_users_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"90 users can train, fewer than batch_size = 100; lower batch_size or add data"
    ):
        run(small, tmp_path / "m", replace(STAGE, batch_size=100))


def test_an_unknown_target_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="unknown category 'cellar'"):
        run(small, tmp_path / "m", domains=["cellar"])


def test_negatives_of_nobody_and_positions_that_are_too_few_are_refused(small: SimpleNamespace, tmp_path: Path):
    narrow = load_model(small.base, small.tokens, small.texts)
    narrow[0].config.max_position_embeddings = 120
    with artifacts.writing(tmp_path / "base") as folder:
        checkpoint.save(narrow[0], narrow[1], folder)
        artifacts.finish(folder, artifacts.Manifest("model"))
    with pytest.raises(
        ValueError, match=r"may take \d+ tokens, but the model has 120 positions; .*lower text.max_tokens"
    ):
        finetune(small.texts, small.tokens, tmp_path / "base", tmp_path / "m", STAGE, small.model)
