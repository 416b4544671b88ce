"""What the steps before left for the report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from calrec import artifacts
from calrec.config import GenerateConfig
from calrec.evaluate.training import curves_and_cost
from calrec.generate.step import generate
from tests.finetune.test_training import STAGE, run


@pytest.fixture(scope="module")
def trained(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    stage = replace(STAGE, steps=4)
    run(small, root / "joint", stage)
    run(small, root / "model", replace(stage, steps=2), name="stage2", domains=["garden"], model=root / "joint")
    run(small, root / "passed", replace(stage, steps=0), name="stage2", domains=["garden"], model=root / "joint")
    config = GenerateConfig(samples=2, max_new_tokens=5, threads=1, max_users=3)
    generate(small.texts, small.tokens, root / "model", root / "generations", "garden", config)
    return root


def test_curves_and_cost_of_both_stages_and_the_generation(trained: Path):
    curves, cost = curves_and_cost([trained / "joint", trained / "model"], trained / "generations")
    assert list(curves) == ["stage1", "stage2"] and list(cost) == ["stage1", "stage2", "generate"]
    assert [(row["step"], "loss" in row) for row in curves["stage1"]] == [
        (0, False), (1, True), (2, True), (3, True), (4, True), (4, False),
    ]  # fmt: skip
    assert curves["stage2"][-1].keys() == {"step", "valid_nig", "valid_ndcg"}
    for step in ("stage1", "stage2"):
        assert cost[step].keys() == {"seconds", "tokens", "peak_memory_bytes"} and cost[step]["tokens"] > 0
    assert cost["generate"].keys() == {"seconds", "tokens", "users_per_second", "peak_memory_bytes"}
    assert 0 < cost["generate"]["tokens"] <= 3 * 2 * 5


def test_a_stage_without_steps_has_no_rows_and_no_cost(trained: Path):
    curves, cost = curves_and_cost([trained / "joint", trained / "passed"], None)
    assert curves["stage2"] == [] and list(cost) == ["stage1"]


def test_values_that_are_no_numbers_are_left_out(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "model", tmp_path / "m")
    rows = [{"step": 1, "loss": 2.0, "tt": float("nan")}, {"step": 1, "valid_nig": float("inf")}]
    artifacts.write_record(tmp_path / "m", {"seconds": 1.0}, rows)
    assert curves_and_cost([tmp_path / "m"], None)[0] == {"stage2": [{"step": 1, "loss": 2.0}, {"step": 1}]}


def test_what_is_not_there_is_left_out(small: SimpleNamespace, trained: Path, tmp_path: Path):
    assert curves_and_cost([], None) == ({}, {})
    assert curves_and_cost([small.base], None) == ({}, {})  # a base model belongs to no stage
    for name, kind in (("model", "model"), ("generations", "generations")):  # made before there were records
        manifest = artifacts.read_manifest(trained / name, kind)
        with artifacts.writing(tmp_path / name) as folder:
            for file in manifest.files:
                (folder / file).write_bytes((trained / name / file).read_bytes())
            artifacts.finish(folder, manifest)
    assert curves_and_cost([tmp_path / "model"], tmp_path / "generations") == ({}, {})


@pytest.mark.parametrize("text", ["", "[]", '{"cost": {}}', '{"cost": [1], "curves": []}', '{"cost": {}, "curves": 3}'])
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str):
    (tmp_path / artifacts.RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: not a record of a step .*run the step again"):
        artifacts.read_record(tmp_path)


def test_a_record_reads_back(tmp_path: Path):
    artifacts.write_record(tmp_path, {"seconds": 1.5}, [{"step": 1, "loss": 0.25}])
    assert artifacts.read_record(tmp_path) == {"cost": {"seconds": 1.5}, "curves": [{"step": 1, "loss": 0.25}]}
    assert json.loads((tmp_path / artifacts.RECORD).read_text()) == artifacts.read_record(tmp_path)
