"""Checkpoints on real disks: damage, kills, full disks, and copies in a folder or an emulated bucket."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calrec.artifacts import sealed
from calrec.finetune.checkpoints import Checkpoints, Progress
from calrec.finetune.record import Record
from calrec.storage import uris

IDENTITY = {"stage": {"lr": 0.1, "domains": ("home", "deli")}, "inputs": {"texts": "abc"}}


def made(folder: Path, remote: Any = None, keep: int = 2, **other: Any) -> Checkpoints:
    return Checkpoints(folder, IDENTITY | other, keep, remote)


def tensors(step: int) -> dict[str, dict[str, Tensor]]:
    return {
        "weights": {"w": torch.full((40, 3), float(step))},
        "optimizer": {"m": torch.full((3,), step, dtype=torch.bfloat16)},
    }


def save(checkpoints: Checkpoints, *steps: int, best: int = 0) -> None:
    for step in steps:
        if step == best:
            checkpoints.save_best(tensors(step)["weights"], step)
        found = 0 < best <= step
        checkpoints.save(tensors(step), Progress(step, best * found, 1 / best if found else math.inf))
    checkpoints.wait()


def loaded(checkpoints: Checkpoints) -> tuple[int, int]:
    """Step and best step of what load() gives, after a look at the tensors."""
    found = checkpoints.load()
    assert found
    kept, progress = found
    for name, group in tensors(progress.step).items():
        for key, tensor in group.items():
            assert torch.equal(kept[name][key], tensor)
    if progress.best_step:
        weights = checkpoints.load_best(progress.best_step)["w"]
        assert torch.equal(weights, tensors(progress.best_step)["weights"]["w"])
    return progress.step, progress.best_step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# One folder


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    tied = torch.arange(6.0).reshape(2, 3)
    group = {
        "tied": tied, "again": tied, "turned": tied.T, "row": tied[1], "scalar": torch.tensor(3),
        "none": torch.empty(0), "rng": torch.get_rng_state(),
        "bf16": tied.bfloat16(), "grad": torch.nn.Parameter(tied.clone()),
    }  # fmt: skip
    progress = Progress(7, 5, -0.25, 2)
    checkpoints = made(tmp_path / "c")
    checkpoints.save_best(group, 5)
    checkpoints.save({"weights": group, "ema": {}}, progress)
    kept, same = made(tmp_path / "c").load() or ({}, Progress())
    assert (same, set(kept), kept["ema"]) == (progress, {"weights", "ema"}, {})
    for back in (kept["weights"], made(tmp_path / "c").load_best(5)):
        assert back.keys() == group.keys()
        assert all(torch.equal(back[name], group[name]) for name in group)
        assert all(back[name].dtype == group[name].dtype for name in group)
    assert checkpoints.notes == []


def test_without_a_checkpoint_a_run_starts_anew(tmp_path: Path):
    assert made(tmp_path / "none").load() is None
    checkpoints = made(tmp_path / "c")
    checkpoints.save_best(tensors(1)["weights"], 1)
    assert made(tmp_path / "c").load() is None
    checkpoints.remove()
    assert not (tmp_path / "c").exists()
    made(tmp_path / "none").remove()


def test_a_checkpoint_before_the_first_validation_names_no_best(tmp_path: Path):
    save(made(tmp_path), 1)
    found = made(tmp_path).load()
    assert found and found[1] == Progress(1)
    json.loads((tmp_path / "step-00000001/state.json").read_text(), parse_constant=pytest.fail)


def test_the_record_of_a_stage_is_kept_and_a_checkpoint_of_before_has_none(tmp_path: Path):
    record = Record([{"step": 1, "loss": 2.5}], every=2, seconds=0.25, tokens=30, peak_memory_bytes=2**40)
    made(tmp_path).save(tensors(1), Progress(1, record=record))
    found = made(tmp_path).load()
    assert found and found[1] == Progress(1, record=record)
    path = tmp_path / "step-00000001/state.json"
    state = json.loads(path.read_text())
    state.pop("sha256")
    del state["progress"]["record"]
    path.write_text(json.dumps(state | {"sha256": sealed.digest(state)}))
    found = made(tmp_path).load()
    assert found and found[1] == Progress(1) and found[1].record == Record()


def test_the_newest_and_the_best_that_they_name_are_kept(tmp_path: Path):
    checkpoints = made(tmp_path, keep=2)
    save(checkpoints, 10, 20, best=10)
    save(checkpoints, 30, best=30)
    assert names(tmp_path) == ["best-00000010", "best-00000030", "step-00000020", "step-00000030"]
    save(checkpoints, 40, best=30)
    assert names(tmp_path) == ["best-00000030", "step-00000030", "step-00000040"]
    # Killed after a new best and before the next checkpoint: the run goes on with the older best.
    checkpoints.save_best(tensors(45)["weights"], 45)
    assert loaded(made(tmp_path)) == (40, 30)
    save(made(tmp_path), 42, best=30)
    assert names(tmp_path) == ["best-00000030", "step-00000040", "step-00000042"]
    checkpoints.remove()
    assert not tmp_path.exists()


def test_a_step_saved_twice_is_replaced_and_a_kill_in_between_loses_nothing(tmp_path: Path):
    folder, volume = tmp_path / "a", uris.folder(str(tmp_path / "volume"))
    checkpoints = made(folder, volume)
    save(checkpoints, 10)
    save(checkpoints, 10, best=10)
    assert loaded(made(folder)) == loaded(made(tmp_path / "b", volume)) == (10, 10)
    (folder / "step-00000010").rename(folder / "step-00000010.old")  # where _install() may be killed
    (folder / "step-00000010.partial").mkdir()
    assert loaded(made(folder)) == (10, 10)
    assert names(folder) == ["best-00000010", "step-00000010"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def _forge(path: Path) -> None:
    path.write_text(path.read_text().replace('"best_step": 20', '"best_step": 10'))


DAMAGE = [
    ("step-00000020/weights.safetensors", _cut, "bytes, expected"),
    ("step-00000020/optimizer.safetensors", flip, "changed after it was written"),
    ("step-00000020/optimizer.safetensors", Path.unlink, "cannot be read"),
    ("step-00000020/state.json", Path.unlink, "cannot be read"),
    ("step-00000020/state.json", _cut, "cannot be read"),
    ("step-00000020/state.json", _forge, "changed after it was written"),
    ("best-00000020/weights.safetensors", flip, "changed after it was written"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    name: str, damage: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save(made(tmp_path), 10, best=10)
    save(made(tmp_path), 20, best=20)
    damage(tmp_path / name)
    checkpoints = made(tmp_path)
    assert loaded(checkpoints) == (10, 10)
    (note,) = checkpoints.notes
    assert re.search(f"checkpoint step-00000020 is skipped: .*{name}.*{reason}", note)
    assert note in capsys.readouterr().err
    save(checkpoints, 15, best=10)  # what lies beyond is of no use now
    assert names(tmp_path) == ["best-00000010", "step-00000010", "step-00000015"]


def test_with_all_damaged_nothing_is_started_and_nothing_deleted(tmp_path: Path):
    save(made(tmp_path), 10, 20)
    for step in (10, 20):
        flip(tmp_path / f"step-000000{step}/weights.safetensors")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"every checkpoint is damaged: .*-00000020/w.*-00000010/w.*remove the folder"):
        made(tmp_path).load()
    assert everything(tmp_path) == before


def test_a_lost_best_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match="the best weights are lost: .*best-00000003/state.json cannot be read"):
        made(tmp_path).load_best(3)


@pytest.mark.parametrize("step", [0, 10])
def test_a_checkpoint_of_another_run_is_refused_with_the_settings_that_differ(step: int, tmp_path: Path):
    checkpoints = made(tmp_path)
    save(checkpoints, step) if step else checkpoints.save_best(tensors(1)["weights"], 1)
    before = everything(tmp_path)
    other = made(tmp_path, stage={"lr": 0.2, "domains": ["home", "deli"]}, model={"tuning": "full"})
    text = (
        "is of another run: model.tuning was absent, is full; stage.lr was 0.1, is 0.2; "
        f"run with its settings and inputs, choose another --out or remove {tmp_path}"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        other.load()
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["step-00000010/state.json", "newest/state.json"])
def test_what_this_program_did_not_write_is_refused(name: str, tmp_path: Path):
    save(made(tmp_path), 20)
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text('{"format": 99}')
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="has format 99, this program reads format 1|newest is no checkpoint"):
        made(tmp_path).load()
    assert everything(tmp_path) == before


FULL = """
import resource, sys
from pathlib import Path
from tests.finetune.test_checkpoints import made, save, torch, Progress
before, none = (made(Path(sys.argv[1], name)) for name in ("before", "none"))
save(before, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
big = {"w": torch.zeros(1 << 20)}
for checkpoints in (before, none):
    for write in (lambda: checkpoints.save({"weights": big}, Progress(20)), lambda: checkpoints.save_best(big, 15)):
        try:
            write()
        except OSError as error:
            print(error)
"""


def python(script: str, *arguments: object) -> str:
    """What a script says in a process of its own; the repository is its path."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path):
    said = python(FULL, tmp_path).splitlines()
    good = ["step 10 is the last good checkpoint"] * 2 + ["there is no checkpoint before it"] * 2
    for line, name, last in zip(said, ["step-00000020", "best-00000015"] * 2, good, strict=True):
        assert re.search(f"{name} could not be written: .*File too large.*; {last}; free or mend this disk", line)
    assert (names(tmp_path / "before"), names(tmp_path / "none")) == (["step-00000010"], [])
    assert loaded(made(tmp_path / "before")) == (10, 0)
    assert made(tmp_path / "none").load() is None


KILLED = """
import os, random, sys, time
from pathlib import Path
from tests.finetune.test_checkpoints import Progress, made, torch
folder, moments = Path(sys.argv[1]), random.Random(0)
torch.set_num_threads(1)  # a forked process has no threads of a pool

def content(step):
    return {"w": torch.full((200_000,), float(step))}

def train(step, best, pipe):
    checkpoints = made(folder, keep=1)
    while True:
        step += 1
        if step % 3 == 0:
            checkpoints.save_best(content(step), step)
            best = step
        checkpoints.save({"weights": content(step), "optimizer": content(-step)}, Progress(step, best))
        os.write(pipe, step.to_bytes(4, "big"))

done, best = 0, 0
for _ in range(12):
    readable, writable = os.pipe()
    if not (child := os.fork()):
        train(done, best, writable)
    os.close(writable)
    said = os.read(readable, 4)  # one whole checkpoint, then any moment
    time.sleep(moments.random() / 30)
    os.kill(child, 9)
    os.waitpid(child, 0)
    while more := os.read(readable, 4):
        said = more
    os.close(readable)
    checkpoints = made(folder, keep=1)
    tensors, progress = checkpoints.load()
    assert progress.step >= int.from_bytes(said, "big") > done, (progress, said)
    done, best = progress.step, progress.best_step
    assert best == done // 3 * 3 and checkpoints.notes == []
    assert tensors["weights"]["w"].eq(done).all() and tensors["optimizer"]["w"].eq(-done).all()
    assert not best or checkpoints.load_best(best)["w"].eq(best).all()
print("whole")
"""


def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path):
    assert python(KILLED, tmp_path / "c").endswith("whole\n")
