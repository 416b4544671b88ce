"""A stage that is killed, told to stop, or continued elsewhere."""

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

from calrec import artifacts
from tests.finetune.test_training import STAGE, equal, run, weights


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
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


def test_a_stage_goes_on_on_a_machine_that_has_only_the_remote_copy(small: SimpleNamespace, tmp_path: Path):
    from calrec import storage

    stage, far = replace(STAGE, steps=12, checkpoint_every=4), storage.folder(str(tmp_path / "far"))
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


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_have_the_loss_and_gradients_of_one(small: SimpleNamespace, tmp_path: Path, sharding: str):
    done = torchrun(small, tmp_path / "seen.json", "gradients", sharding)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) == 6  # two families, three choices of negatives
    for case, (loss, gradient) in seen.items():
        assert loss < 1e-6 and gradient < 1e-5, (case, loss, gradient)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
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
