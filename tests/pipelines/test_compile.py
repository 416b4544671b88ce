"""The compiled pipeline: the same each time, and sound."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from calrec import runs
from pipelines.__main__ import main
from pipelines.compiling import compile_training, load
from pipelines.validation import validate
from tests.conftest import REPO

GOLDEN = REPO / "tests/golden/calrec-training.yaml"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_training(runs.sample(), tmp_path_factory.mktemp("compiled"))


def test_the_pipeline_is_the_golden_one(compiled: Path):
    """When the change is wanted: python -m pipelines compile --out tests/golden."""
    assert load(compiled) == load(GOLDEN)


def test_another_process_writes_the_same_bytes(compiled: Path, tmp_path: Path):
    for seed in ("1", "2", "3"):  # of hashes, and so of the order of sets
        command = [sys.executable, "-m", "pipelines", "compile", "--out", str(tmp_path / seed)]
        subprocess.run(command, check=True, cwd=REPO, env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True)
        assert (tmp_path / seed / compiled.name).read_bytes() == compiled.read_bytes()


def test_no_step_installs_anything_or_carries_a_secret(compiled: Path):
    text = compiled.read_text()
    assert "pip install" not in text
    assert "secretName: calrec" in text and "optional: true" in text


def test_the_image_is_set_for_every_step(tmp_path: Path):
    path = compile_training(runs.tiny(), tmp_path, image="shop/calrec@sha256:abc")
    executors = load(path)[0]["deploymentSpec"]["executors"].values()
    assert {e["container"]["image"] for e in executors} == {"shop/calrec@sha256:abc"}
    assert validate(path) == []


def test_data_and_training_are_cached_and_effects_are_not(compiled: Path):
    spec = load(compiled)[0]
    tasks = {**spec["root"]["dag"]["tasks"]}
    for component in spec["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    cached = {name: task.get("cachingOptions", {}).get("enableCache", False) for name, task in tasks.items()}
    assert all(cached[name] for name in ("ingest", "textify", "base-model", "finetune", "generate", "retrieve"))
    assert not cached["evaluate"] and not cached["promote"]


# --- validate ---------------------------------------------------------------------------------------------------


def write(path: Path, documents: list[Any]) -> Path:
    path.write_text(yaml.safe_dump_all(documents))
    return path


def dag(documents: list[Any], name: str) -> Any:
    return next(c["dag"] for n, c in documents[0]["components"].items() if n == name)


def unknown_field(d: list[Any]) -> None:
    d[0]["root"]["dag"]["tasks"]["textify"]["cachingOptions"] = {"enableCash": True}


def unknown_platform_field(d: list[Any]) -> None:
    next(iter(d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()))["secretAsEnvy"] = []


def dangling_parameter(d: list[Any]) -> None:
    inputs = dag(d, "comp-for-loop-2")["tasks"]["calrec-target"]["inputs"]["parameters"]
    inputs["gate"] = {"componentInputParameter": "pipelinechannel--nothing"}


def dangling_limit(d: list[Any]) -> None:
    task = dag(d, "comp-calrec-target")["tasks"]["finetune"]
    task["taskInfo"]["name"] = "{{$.inputs.parameters['pipelinechannel--cpu']}}"


def missing_producer(d: list[Any]) -> None:
    d[0]["root"]["dag"]["tasks"]["base-model"]["inputs"]["artifacts"]["texts"]["taskOutputArtifact"]["producerTask"] = (
        "x"
    )


def missing_output(d: list[Any]) -> None:
    d[0]["root"]["dag"]["tasks"]["base-model"]["inputs"]["artifacts"]["texts"]["taskOutputArtifact"][
        "outputArtifactKey"
    ] = "x"


def missing_input(d: list[Any]) -> None:
    d[0]["root"]["dag"]["tasks"]["textify"]["inputs"]["parameters"].pop("text")


def missing_component(d: list[Any]) -> None:
    d[0]["components"].pop("comp-textify")


def missing_executor(d: list[Any]) -> None:
    d[0]["deploymentSpec"]["executors"].pop("exec-textify")


def missing_dependency(d: list[Any]) -> None:
    d[0]["root"]["dag"]["tasks"]["base-model"]["dependentTasks"].append("gone")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unknown_field, "enableCash"),
        (unknown_platform_field, "secretAsEnvy"),
        (dangling_parameter, "comp-for-loop-2 / calrec-target: input gate comes from pipelinechannel--nothing"),
        (dangling_limit, "names an input that the task does not have"),
        (missing_producer, "root / base-model: input texts comes from task x, which does not exist here"),
        (missing_output, "has no such output"),
        (missing_input, "root / textify: required input text is not given"),
        (missing_component, "root / textify: component comp-textify does not exist"),
        (missing_executor, "comp-textify: executor exec-textify does not exist"),
        (missing_dependency, "root / base-model: depends on gone, which is no task here"),
    ],
)
def test_validate_finds(compiled: Path, tmp_path: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]):
    documents = copy.deepcopy([*load(compiled)])
    damage(documents)
    faults = validate(write(tmp_path / "p.yaml", documents))
    assert any(message in fault for fault in faults), faults
    assert main(["validate", str(tmp_path / "p.yaml")]) == 1
    assert message in capsys.readouterr().out


def test_validate_passes_what_is_sound(compiled: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["validate", str(compiled)]) == 0
    assert capsys.readouterr().out == f"{compiled}: sound\n"


@pytest.mark.parametrize("content", ["", "a: 1", "[1", "\x00"])
def test_a_file_that_is_no_pipeline_is_refused(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.yaml").write_text(content)
    assert main(["validate", str(tmp_path / "x.yaml")]) == 2
    assert "x.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "books"], "--source takes NAME=URI"),
        (["--target", "books"], "target 'books' is not a category of this run"),
        (["--set", "stage1.batch_size=1"], "batch_size must be >= 2"),
    ],
)
def test_a_users_mistake_is_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["compile", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
