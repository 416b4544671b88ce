"""Towers and the loop, on a real tiny model."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calrec import artifacts
from calrec.config import ModelConfig, StageConfig
from calrec.finetune import batches, trainer
from calrec.finetune.batches import Row, collate
from calrec.finetune.state import Checkpoints
from calrec.finetune.step import finetune, merged, trainable
from calrec.finetune.towers import decoder_and_head, loss_of, mean_between, towers
from calrec.finetune.trainer import Data, schedule
from calrec.model.loading import load_model, load_users

STAGE = StageConfig(
    steps=8, batch_size=4, lr=3e-3, train_on="all", valid_every=4, valid_users=16, checkpoint_every=4, threads=1
)  # fmt: skip


@pytest.fixture
def data(small: SimpleNamespace) -> Data:
    groups = artifacts.read_table(small.texts, "items.parquet", "texts")["group"].to_numpy()
    return Data(load_users(small.texts), load_model(small.base, small.tokens, small.texts)[2], groups)


@pytest.fixture
def network(small: SimpleNamespace) -> Any:
    return load_model(small.base, small.tokens, small.texts)[0]


ROWS = [Row([0, 1, 2], 3), Row([5], 4), Row([2, 2, 7, 8, 1], 9)]


def run(small: SimpleNamespace, out: Path, stage: StageConfig = STAGE, **options: Any) -> artifacts.Manifest:
    return finetune(small.texts, small.tokens, small.base, out, stage, options.pop("tuning", small.model), **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def equal(a: Path, b: Path) -> bool:
    return all(torch.equal(x, weights(b)[name]) for name, x in weights(a).items())


# --- towers -----------------------------------------------------------------------------------------------------


def test_padding_changes_nothing(network: Any, data: Data):
    decoder, _ = decoder_and_head(network)
    together = towers(decoder, collate(ROWS, data.cache, data.groups, "all"))
    for i, row in enumerate(ROWS):
        alone = towers(decoder, collate([row], data.cache, data.groups, "all"))
        for in_batch, by_itself in zip(together[:3], alone[:3], strict=True):
            assert torch.allclose(in_batch[i], by_itself[0], atol=1e-5)


def test_the_towers_are_means_of_the_right_states(network: Any, data: Data):
    decoder, _ = decoder_and_head(network)
    history, target = data.cache.history([0, 1])[0], data.cache.target(3)
    v_u, v_tu, v_t, _ = towers(decoder, collate([Row([0, 1], 3)], data.cache, data.groups, "last"))
    joint = network(torch.tensor([[*history, *target]]), output_hidden_states=True).hidden_states[-1][0]
    alone = network(torch.tensor([target.tolist()]), output_hidden_states=True).hidden_states[-1][0]
    assert torch.allclose(v_u[0], joint[: len(history)].mean(0), atol=1e-5)
    assert torch.allclose(v_tu[0], joint[len(history) :].mean(0), atol=1e-5)
    assert torch.allclose(v_t[0], alone.mean(0), atol=1e-5)


def test_next_item_loss_equals_the_models_own(network: Any, data: Data):
    decoder, head = decoder_and_head(network)
    batch = collate([Row([0, 1], 3)], data.cache, data.groups, "last")
    labels = batch.joint_BT.clone()
    labels[0, : batch.prompt_B[0]] = -100
    theirs = network(batch.joint_BT, labels=labels).loss
    pair = collate([Row([0, 1], 3), Row([0, 1], 3)], data.cache, data.groups, "last")
    assert torch.isclose(loss_of(decoder, head, pair, STAGE).nig, theirs, rtol=1e-5)


def test_mean_between_counts_only_what_is_inside():
    states = torch.arange(12.0).reshape(1, 6, 2)
    assert mean_between(states, torch.tensor([1]), torch.tensor([3])).tolist() == [[(2 + 4) / 2, (3 + 5) / 2]]


def test_a_model_that_changes_its_logits_is_refused(network: Any):
    class Scaled(type(network)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 0.5
            return out

    network.__class__ = Scaled
    with pytest.raises(ValueError, match="changes its logits after the output layer"):
        decoder_and_head(network)


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


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_four_and_four_steps_equal_eight_bit_for_bit(
    small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
):
    model = replace(small.model, tuning=tuning, lora_rank=2)
    run(small, tmp_path / "whole", tuning=model)

    real, calls = batches.collate, 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += args[3] == STAGE.train_on
        if calls > 8 + 6:  # 8 batches are looked at for the printed arithmetic; then the seventh step is cut off
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(batches, "collate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path / "parts", tuning=model)
    assert not (tmp_path / "parts").exists() and (tmp_path / "parts.checkpoint/newest/state.json").is_file()
    monkeypatch.setattr(batches, "collate", real)
    run(small, tmp_path / "parts", tuning=model)
    assert equal(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts.checkpoint").exists()


def test_a_checkpoint_of_another_configuration_is_not_continued(small: SimpleNamespace, tmp_path: Path, network: Any):
    Checkpoints(tmp_path / "m.checkpoint", "another").write(
        network, torch.optim.AdamW(network.parameters()), trainer.Progress(step=5)
    )
    run(small, tmp_path / "m")
    run(small, tmp_path / "fresh")
    assert equal(tmp_path / "m", tmp_path / "fresh")


def test_lora_trains_adapters_only_and_merges_into_plain_weights(small: SimpleNamespace, tmp_path: Path, network: Any):
    config = ModelConfig(tuning="lora", lora_rank=2)
    adapted = trainable(network, config)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = adapted(ids).logits
    plain = merged(adapted)
    assert torch.allclose(plain(ids).logits, before, atol=1e-4)
    run(small, tmp_path / "m", tuning=replace(small.model, tuning="lora", lora_rank=2))
    assert weights(tmp_path / "m").keys() == weights(small.base).keys()
    assert not equal(tmp_path / "m", small.base)


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


def test_a_loss_that_is_not_finite_stops_before_the_step(
    small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, calls = trainer.loss_of, 0

    def broken(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        terms = real(*args)
        return replace(terms, loss=terms.loss * float("nan")) if calls == 3 else terms

    monkeypatch.setattr(trainer, "loss_of", broken)
    with pytest.raises(
        FloatingPointError, match=r"stage1: loss is nan at step 2 .*lower lr \(now 0.003\); users of the batch: u\d+, u"
    ):
        run(small, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_batch_larger_than_the_users_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"90 users can train, fewer than batch_size = 100; lower batch_size or add data"
    ):
        run(small, tmp_path / "m", replace(STAGE, batch_size=100))


def test_an_unknown_target_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="unknown category 'cellar'"):
        run(small, tmp_path / "m", domains=["cellar"])


def test_the_schedule_warms_up_and_ends_at_a_tenth():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates.index(1.0) in (9, 10)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
