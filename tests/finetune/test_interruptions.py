"""A stage that is killed, told to stop, or continued elsewhere."""

import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from calrec import artifacts
from calrec.config import StageConfig
from calrec.finetune import step as finetune_step
from calrec.finetune import telemetry
from calrec.finetune.trainer import Trainer
from tests.finetune.test_training import STAGE, equal, run, weights


@pytest.mark.long
@pytest.mark.parametrize("kills", [3, 10])
def test_killed_at_random_moments_a_stage_ends_with_identical_weights(
    small: SimpleNamespace, tmp_path: Path, kills: int
):
    for name in ("texts", "tokens", "base"):
        shutil.copytree(small.root / name, tmp_path / name)
    command = [sys.executable, "-m", "tests.finetune.killed", str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stderr.strip().splitlines()[-1])
    assert found == {"killed": kills, "identical": {"weights": True, "curves": True}}
    assert "going on after step" in done.stdout
    assert not (tmp_path / "killed.checkpoint").exists()


def test_sigterm_writes_a_checkpoint_from_which_the_stage_goes_on_bit_for_bit(
    small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stage = replace(STAGE, steps=40, checkpoint_every=0)
    run(small, tmp_path / "whole", stage)
    sent = []

    def stop(step: int, metrics: dict[str, float]) -> None:
        if "valid_nig" in metrics and step == 20 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(SystemExit) as left:
        run(small, tmp_path / "parts", stage, log=stop)
    assert left.value.code == 75
    assert "told to stop; a checkpoint of step 20 is written" in capsys.readouterr().out
    assert not (tmp_path / "parts").exists()
    run(small, tmp_path / "parts", stage)
    assert "going on after step 20" in capsys.readouterr().out
    assert equal(tmp_path / "whole", tmp_path / "parts")


def checkpointed(small: SimpleNamespace, out: Path, stage: StageConfig) -> list[str]:
    """Names of all checkpoints of a stage whose clock goes on by half a minute each time it is looked at."""
    seen: list[str] = []

    def look(step: int, metrics: dict[str, float]) -> None:
        if step == stage.steps:
            seen[:] = sorted(path.name for path in out.with_name(out.name + ".checkpoint").glob("step-*"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_step, "Trainer", functools.partial(Trainer, clock=itertools.count(0, 30).__next__))
        run(small, out, replace(stage, keep_checkpoints=100), log=look)
    return seen


def test_checkpoints_by_time_come_beside_those_by_steps_and_change_no_weight(small: SimpleNamespace, tmp_path: Path):
    for name, every, minutes, steps in (
        ("none", 0, 0.0, []),
        ("steps", 5, 0.0, [5]),
        ("time", 0, 1.0, [2, 4, 6]),  # after one more look at a save
        ("both", 3, 1.0, [2, 3, 5, 6]),
        ("rarely", 0, 5.0, []),
    ):
        stage = replace(STAGE, checkpoint_every=every, checkpoint_minutes=minutes)
        assert checkpointed(small, tmp_path / name, stage) == [f"step-{step:08d}" for step in steps], name
        assert equal(tmp_path / name, tmp_path / "none")


def test_a_stage_goes_on_from_a_checkpoint_by_time(small: SimpleNamespace, tmp_path: Path):
    stage = replace(STAGE, checkpoint_every=0, checkpoint_minutes=1.0, valid_every=0)
    run(small, tmp_path / "whole", stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_step, "Trainer", functools.partial(Trainer, clock=itertools.count(0, 30).__next__))
        patch.setattr(telemetry, "REPORT_SECONDS", 0.0)  # log each step

        def die(step: int, metrics: dict[str, float]) -> None:
            if step == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(small, tmp_path / "parts", stage, log=die)
    assert [path.name for path in (tmp_path / "parts.checkpoint").glob("step-*4")] == ["step-00000004"]
    run(small, tmp_path / "parts", stage)
    assert equal(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.long
def test_the_first_ranks_clock_decides_for_both(small: SimpleNamespace, tmp_path: Path):
    done = torchrun(small, tmp_path / "m", "timed", "ddp")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "m.seen").read_text()) == ["step-00000002", "step-00000004", "step-00000006"]


def test_patience_is_not_forgotten(small: SimpleNamespace, tmp_path: Path):
    stage = replace(STAGE, steps=40, lr=3.0, clip=1e9, valid_every=2, patience=3)  # never better than step 0

    def stop(step: int, metrics: dict[str, float]) -> None:
        if "valid_nig" in metrics and step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = run(small, tmp_path / "whole", stage)
    with pytest.raises(SystemExit):
        run(small, tmp_path / "parts", stage, log=stop)
    assert run(small, tmp_path / "parts", stage).counts["steps"] == whole.counts["steps"] == 6


def test_the_precision_that_a_stage_began_with_stays(small: SimpleNamespace, tmp_path: Path):
    """It begins on a machine with AMX and goes on on one without."""
    stage, begun = replace(STAGE, steps=6), []

    def stop(step: int, metrics: dict[str, float]) -> None:
        if "valid_nig" in metrics and step == 4:
            begun.append(os.kill(os.getpid(), signal.SIGTERM))

    for name, amx in (("fp32", False), ("bf16", True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
            assert run(small, tmp_path / name, stage).counts["precision"] == name
            with pytest.raises(SystemExit):
                run(small, tmp_path / f"{name} parts", stage, log=stop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: not amx)
            assert run(small, tmp_path / f"{name} parts", stage).counts["precision"] == name
        assert equal(tmp_path / name, tmp_path / f"{name} parts")
    assert not equal(tmp_path / "fp32", tmp_path / "bf16")
    assert run(small, tmp_path / "asked", replace(stage, precision="bf16")).counts["precision"] == "bf16"
    assert equal(tmp_path / "asked", tmp_path / "bf16")


def test_a_stage_goes_on_on_a_machine_that_has_only_the_remote_copy(small: SimpleNamespace, tmp_path: Path):
    from calrec.storage import uris

    stage, far = replace(STAGE, steps=12, checkpoint_every=4), uris.folder(str(tmp_path / "far"))
    run(small, tmp_path / "whole", stage)

    def stop(step: int, metrics: dict[str, float]) -> None:
        if "valid_nig" in metrics and step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        run(small, tmp_path / "a" / "m", stage, log=stop, remote=far)
    shutil.rmtree(tmp_path / "a")
    assert any(name.endswith("state.json") for name in far.names())
    run(small, tmp_path / "b" / "m", stage, remote=far)
    assert equal(tmp_path / "whole", tmp_path / "b" / "m")
    assert far.names() == []


def test_other_settings_do_not_go_on_from_a_checkpoint(small: SimpleNamespace, tmp_path: Path):
    def stop(step: int, metrics: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        run(small, tmp_path / "m", log=stop)
    with pytest.raises(ValueError, match=r"stage1\.lr.*0\.003.*0\.5"):
        run(small, tmp_path / "m", replace(STAGE, lr=0.5))
    run(small, tmp_path / "m")


def torchrun(small: SimpleNamespace, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tests.finetune.two", str(small.root), str(out), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_processes_have_the_loss_and_gradients_of_one(small: SimpleNamespace, tmp_path: Path, sharding: str):
    done = torchrun(small, tmp_path / "seen.json", "gradients", sharding)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) == 6  # two families, three choices of negatives
    for case, (loss, gradient) in seen.items():
        assert loss < 1e-6 and gradient < 1e-5, (case, loss, gradient)


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_processes_learn_what_one_does_and_one_goes_on_from_two(
    small: SimpleNamespace, tmp_path: Path, sharding: str
):
    done = torchrun(small, tmp_path / "m", "stage", sharding)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("best validation nig") == 1  # one of the two speaks
    stage = replace(STAGE, steps=8, ema=0.5, micro_tokens=250)
    run(small, tmp_path / "one", stage)
    shutil.move(tmp_path / "m.after-4", tmp_path / "continued.checkpoint")
    run(small, tmp_path / "continued", stage)
    for name, value in weights(tmp_path / "one").items():
        assert (value - weights(tmp_path / "m")[name]).abs().max() < 2e-4, name
        assert (value - weights(tmp_path / "continued")[name]).abs().max() < 2e-4, name
    records = [artifacts.read_record(tmp_path / name)["curves"] for name in ("m", "one", "continued")]
    steps = [[(row["step"], *sorted(row)) for row in rows] for rows in records]
    assert steps[0] == steps[1] == steps[2] and len(steps[0]) == 8 + 3  # one of the two writes; validation at 0, 4, 8


@pytest.mark.long
def test_more_processes_than_users_are_refused(small: SimpleNamespace, tmp_path: Path):
    done = torchrun(small, tmp_path / "m", "odd", "ddp")
    assert done.returncode != 0
    assert "batch_size = 3 cannot be shared by 2 processes; make it a multiple, such as 4" in done.stderr


def test_sigterm_reaches_both_processes(small: SimpleNamespace, tmp_path: Path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tests.finetune.two", str(small.root), str(tmp_path / "m"), "endless", "fsdp",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line)
            if "step 8 validation" in line:
                running.send_signal(signal.SIGTERM)
        running.wait(60)
    assert any("told to stop; a checkpoint of step" in line for line in lines), "".join(lines)[-3000:]
    assert list((tmp_path / "m.checkpoint").glob("step-*/state.json"))
