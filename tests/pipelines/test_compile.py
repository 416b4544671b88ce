"""The compiled pipelines: the same each time, and sound."""

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from calrec.config import runs
from pipelines.__main__ import _parser, configuration, main
from pipelines.compiling import PIPELINES, arguments, compile_pipeline, load, pipeline
from pipelines.reference import document
from pipelines.validation import validate
from tests.conftest import REPO
from tests.pipelines.small import IMAGE

GOLDEN = REPO / "tests/golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    for name in PIPELINES:
        compile_pipeline(name, runs.sample(), folder)
    return folder


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Path:
    return folder / "calrec-training.yaml"


def tasks_of(path: Path) -> dict[str, Any]:
    """Every task of every DAG; those of one name stand for each other."""
    specification = load(path)[0]
    dags = [specification["root"]["dag"], *(c["dag"] for c in specification["components"].values() if "dag" in c)]
    return {name: task for dag in dags for name, task in dag["tasks"].items()}


def pods_of(path: Path) -> dict[str, tuple[Any, Any]]:
    """Executor → its container, and what Kubernetes is told."""
    specification, platform = load(path)
    told = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = specification["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): (one["container"], told[name]) for name, one in executors.items()}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_is_the_golden_one(folder: Path, name: str):
    """When the change is wanted: python -m pipelines compile --out tests/golden."""
    assert load(folder / f"calrec-{name}.yaml") == load(GOLDEN / f"calrec-{name}.yaml")
    assert validate(folder / f"calrec-{name}.yaml") == []


def test_ten_processes_write_the_same_bytes(folder: Path, tmp_path: Path):
    def compiled_by(seed: int) -> Path:  # of hashes, and so of the order of sets
        out = tmp_path / str(seed)
        command = [sys.executable, "-m", "pipelines", "compile", "--out", str(out)]
        environment = {"PYTHONHASHSEED": str(seed), "PATH": ""}
        subprocess.run(command, check=True, cwd=REPO, env=environment, capture_output=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        for out in pool.map(compiled_by, range(10)):
            for name in PIPELINES:
                assert (out / f"calrec-{name}.yaml").read_bytes() == (folder / f"calrec-{name}.yaml").read_bytes()


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_installs_anything_or_carries_a_secret(folder: Path, name: str):
    secrets = {"MLFLOW_TRACKING_PASSWORD": "a-password", "MLFLOW_TRACKING_TOKEN": "a-token", "KFP_TOKEN": "a-key"}
    command = [sys.executable, "-m", "pipelines", "compile", "--out", str(folder / "again")]
    subprocess.run(command, check=True, cwd=REPO, env={**os.environ, **secrets}, capture_output=True)
    text = (folder / "again" / f"calrec-{name}.yaml").read_text()
    assert "pip install" not in text and not any(secret in text for secret in secrets.values())
    for _, told in pods_of(folder / f"calrec-{name}.yaml").values():
        assert [(one["secretName"], one["optional"]) for one in told["secretAsEnv"]] == [("calrec", True)]
        assert [(one["configMapName"], one["optional"]) for one in told["configMapAsEnv"]] == [("calrec", True)]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_image_is_set_for_every_step(tmp_path: Path, name: str):
    path = compile_pipeline(name, runs.tiny(), tmp_path, image=IMAGE)
    assert {container["image"] for container, _ in pods_of(path).values()} == {IMAGE}
    assert "calrec:0.1.0" not in path.read_text()
    assert validate(path) == []


def test_data_and_training_are_cached_and_effects_are_not(folder: Path):
    effects = {"watch", "evaluate", "promote", "find-champions", "recommend"}
    steps = set()
    for name in PIPELINES:
        for task, settings in tasks_of(folder / f"calrec-{name}.yaml").items():
            if "retryPolicy" in settings:  # a step, not a sub-pipeline
                steps.add(task)
                assert settings.get("cachingOptions", {}).get("enableCache", False) == (task not in effects), task
    assert (
        effects < steps
        and {"ingest", "textify", "base-model", "stage-1", "stage-2", "refit", "generate", "champion"} < steps
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pod_has_limits_a_time_and_retries(folder: Path, name: str):
    path = folder / f"calrec-{name}.yaml"
    for step, (container, told) in pods_of(path).items():
        resources = container["resources"]
        for what in ("Cpu", "Memory"):
            assert resources[f"resource{what}Request"] == resources[f"resource{what}Limit"], step
        assert int(told["activeDeadlineSeconds"]) >= 3600
    for task, settings in tasks_of(path).items():
        if "cachingOptions" in settings and "retryPolicy" in settings:
            assert settings["retryPolicy"]["maxRetryCount"] == 2, task
            assert settings["taskInfo"]["name"].lower().replace(" ", "-") == task


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_retry_has_the_time_that_it_may_take(path: Path):
    """Argo counts backoffMaxDuration from the first attempt: the last one must still end before it."""
    specification, platform = load(path)
    limits = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    steps = []
    for component in (specification["root"], *specification["components"].values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            executor = specification["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor:
                steps.append(name)
                policy, limit = task["retryPolicy"], int(limits[executor]["activeDeadlineSeconds"])
                assert (policy["backoffDuration"], policy["backoffFactor"], policy["maxRetryCount"]) == ("30s", 2, 2)
                assert int(policy["backoffMaxDuration"].removesuffix("s")) >= 3 * limit + 30 + 60, name
    assert sorted(steps) == sorted(pods_of(path))


@pytest.mark.parametrize("name", PIPELINES)
def test_no_pod_is_root_and_what_it_spills_is_bounded(folder: Path, name: str):
    for _, told in pods_of(folder / f"calrec-{name}.yaml").values():
        assert told["securityContext"] == {"runAsNonRoot": True}
        assert {"volumeName": "tmp", "mountPath": "/tmp", "sizeLimit": "50Gi"} in told["emptyDirMounts"]


def test_a_trainings_pod_knows_its_time_limit(compiled: Path):
    for step in ("stage-1", "stage-2", "refit"):
        container, told = pods_of(compiled)[step]
        assert {"name": "CALREC_TIME_LIMIT", "value": told["activeDeadlineSeconds"]} in container["env"]


def test_gpus_and_their_nodes_are_parameters_of_what_uses_a_model(compiled: Path):
    pods = pods_of(compiled)
    on_gpus = {step for step, (container, _) in pods.items() if "accelerator" in container["resources"]}
    assert on_gpus == {"stage-1", "stage-2", "refit", "index", "generate", "retrieve", "champion", "promote"}
    for step in on_gpus:
        container, told = pods[step]
        kind = "train" if step in ("stage-1", "stage-2", "refit") else "infer"
        assert f"{kind}_gpus" in container["resources"]["accelerator"]["resourceCount"]
        assert told["nodeSelector"]["nodeSelectorJson"] == {"componentInputParameter": "node_selector"}
        assert told["tolerations"] == [{"tolerationJson": {"componentInputParameter": "tolerations"}}]
    shared = {step for step, (_, told) in pods.items() if "/dev/shm" in str(told["emptyDirMounts"])}
    assert shared == {"stage-1", "stage-2", "refit"}
    assert {one["medium"] for step in shared for one in pods[step][1]["emptyDirMounts"][1:]} == {"Memory"}


def test_a_claim_is_mounted_where_files_are_kept(tmp_path: Path):
    path = compile_pipeline("training", runs.tiny(), tmp_path, claim="calrec-cache")
    for container, told in pods_of(path).values():
        assert [(one["constant"], one["mountPath"]) for one in told["pvcMount"]] == [("calrec-cache", "/cache")]
        assert {"name": "CALREC_CACHE", "value": "/cache/calrec"} in container["env"]
    assert validate(path) == []


# --- parameters ---------------------------------------------------------------------------------------------------


def test_the_table_of_parameters_is_that_of_the_code():
    """When it is not: python -m pipelines parameters > pipelines/PARAMETERS.md."""
    assert (REPO / "pipelines/PARAMETERS.md").read_text() == document(runs.sample())


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_described_and_reached_from_the_command_line(name: str):
    inputs = set(pipeline(name).component_spec.inputs)
    assert inputs == set(arguments(name, runs.sample()))
    text = document(runs.sample()).split(f"## Pipeline `{name}`")[1].split("## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:3] == "| `"]
    assert {row[0] for row in rows} == inputs and all(row[4] for row in rows)
    before = arguments(name, runs.sample())
    values = {"node_selector": '{"a": "b"}', "tolerations": '[{"key": "a"}]', "accelerator": "x/gpu"}
    settings = {
        "data": "data.min_user=3", "split": "split.test_share=0.2", "text": "text.phrases=false",
        "model": "model.seed=3", "stage1": "stage1.steps=7", "stage2": "stage2.steps=7", "refit": "refit.steps=7",
        "launch": "launch.processes=2", "generate": "generate.samples=7", "retrieve": "retrieve.b=0.5",
        "evaluate": "evaluate.seed=3", "gate": "gate.min_gain=0.1", "batch": "batch.k=7",
    }  # fmt: skip
    for parameter, _, option, *_ in rows:
        if parameter in ("sources", "targets"):
            given = ["--source", "deli=sample:DELI", "--target", "deli"]
        elif parameter == "only_new":
            given = [option]
        elif option.startswith("--set cluster."):
            usual = "7Gi" if parameter.endswith("_memory") else "7"
            given = ["--set", f"cluster.{parameter}={values.get(parameter, usual)}"]
        else:
            given = ["--set", settings[parameter]]
        options = _parser().parse_args(["compile", name, "--out", "build", *given])
        after = arguments(name, configuration(options), options.only_new)
        changed = {one for one, value in before.items() if after[one] != value}
        if name == "batch" and parameter == "data":
            assert not changed  # a batch cleans nothing away, whatever is set
        else:
            named = {"sources", "targets"} & inputs if parameter in ("sources", "targets") else {parameter}
            assert changed == named


# --- validate ---------------------------------------------------------------------------------------------------


def write(path: Path, documents: list[Any]) -> Path:
    path.write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper))
    return path


def dag(documents: list[Any], name: str) -> Any:
    return next(c["dag"] for n, c in documents[0]["components"].items() if n == name)


def models(d: list[Any]) -> Any:
    return dag(d, "comp-calrec-models")["tasks"]


def unknown_field(d: list[Any]) -> None:
    models(d)["textify"]["cachingOptions"] = {"enableCash": True}


def unknown_platform_field(d: list[Any]) -> None:
    next(iter(d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()))["secretAsEnvy"] = []


def dangling_parameter(d: list[Any]) -> None:
    inputs = dag(d, "comp-for-loop-2")["tasks"]["target"]["inputs"]["parameters"]
    inputs["gate"] = {"componentInputParameter": "pipelinechannel--nothing"}


def dangling_limit(d: list[Any]) -> None:
    task = dag(d, "comp-calrec-target")["tasks"]["stage-2"]
    task["taskInfo"]["name"] = "{{$.inputs.parameters['pipelinechannel--cpu']}}"


def lost_limit(d: list[Any]) -> None:
    dag(d, "comp-calrec-source")["tasks"]["ingest"]["inputs"]["parameters"].pop("pipelinechannel--data_cpu")


def lost_selector(d: list[Any]) -> None:
    told = d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-generate"]
    told["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"] = "nodes"


def missing_producer(d: list[Any]) -> None:
    models(d)["base-model"]["inputs"]["artifacts"]["texts"]["taskOutputArtifact"]["producerTask"] = "x"


def missing_output(d: list[Any]) -> None:
    models(d)["base-model"]["inputs"]["artifacts"]["texts"]["taskOutputArtifact"]["outputArtifactKey"] = "x"


def missing_input(d: list[Any]) -> None:
    models(d)["textify"]["inputs"]["parameters"].pop("text")


def missing_component(d: list[Any]) -> None:
    d[0]["components"].pop("comp-textify")


def missing_executor(d: list[Any]) -> None:
    d[0]["deploymentSpec"]["executors"].pop("exec-textify")


def missing_dependency(d: list[Any]) -> None:
    models(d)["base-model"]["dependentTasks"].append("gone")


def short_retries(d: list[Any]) -> None:
    dag(d, "comp-calrec-target")["tasks"]["stage-2"]["retryPolicy"]["backoffMaxDuration"] = "600s"


def no_retry_time(d: list[Any]) -> None:
    del dag(d, "comp-calrec-target")["tasks"]["stage-2"]["retryPolicy"]["backoffMaxDuration"]  # Argo: 3600 s


def no_time_limit(d: list[Any]) -> None:
    del d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-stage-2"]["activeDeadlineSeconds"]


def password_in_a_parameter(d: list[Any]) -> None:
    source = {"domain": "books", "uri": "gs://shop/books,https://me:hunter2@host/books?token=s3cret", "snapshot": ""}
    d[0]["root"]["inputDefinitions"]["parameters"]["sources"]["defaultValue"] = [source]


def password_in_a_constant(d: list[Any]) -> None:
    value = {"runtimeValue": {"constant": "https://me:hunter2@host/x"}}
    models(d)["textify"]["inputs"]["parameters"]["text"] = value


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            short_retries,
            "comp-calrec-target / stage-2: backoffMaxDuration 600s ends its retries; 3 attempts of 259200s",
        ),
        (no_retry_time, "comp-calrec-target / stage-2: backoffMaxDuration 3600s ends its retries"),
        (no_time_limit, "comp-calrec-target / stage-2: is retried, but has no time limit"),
        (password_in_a_parameter, "parameter sources: gs://shop/books,https://…@host/books?token=… has a user"),
        (password_in_a_constant, "comp-calrec-models / textify: text: https://…@host/x has a user"),
        (unknown_field, "enableCash"),
        (unknown_platform_field, "secretAsEnvy"),
        (dangling_parameter, "comp-for-loop-2 / target: input gate comes from pipelinechannel--nothing"),
        (dangling_limit, "names an input that the task does not have"),
        (
            lost_limit,
            "comp-calrec-source / ingest: {{$.inputs.parameters['pipelinechannel--data_cpu']}} names an input",
        ),
        (lost_selector, "comp-calrec-target / generate: the platform's settings name nodes, which is no input here"),
        (missing_producer, "comp-calrec-models / base-model: input texts comes from task x, which does not exist here"),
        (missing_output, "has no such output"),
        (missing_input, "comp-calrec-models / textify: required input text is not given"),
        (missing_component, "comp-calrec-models / textify: component comp-textify does not exist"),
        (missing_executor, "comp-textify: executor exec-textify does not exist"),
        (missing_dependency, "comp-calrec-models / base-model: depends on gone, which is no task here"),
    ],
)
def test_validate_finds(compiled: Path, tmp_path: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]):
    documents = copy.deepcopy([*load(compiled)])
    damage(documents)
    faults = validate(write(tmp_path / "p.yaml", documents))
    assert any(message in fault for fault in faults), faults
    assert "hunter2" not in str(faults) and "s3cret" not in str(faults)
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
        (["--source", "a=https://me:hunter2@host/a.csv"], "parameters: https://…@host/a.csv has a user, a password or"),
        (
            ["--source", "a=https://host/a.csv?X-Amz-Signature=hunter2"],
            "https://host/a.csv?X-Amz-Signature=… has a user",
        ),
        (["--image", "shop/Calrec:1"], "--image must name an image, such as registry/calrec:0.1.0"),
        (["--cache-claim", "calrec_cache"], "--cache-claim must be a name of Kubernetes: small letters, digits, - and"),
    ],
)
def test_a_users_mistake_is_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["compile", "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and "hunter2" not in said
    assert not (tmp_path / "out").exists()
