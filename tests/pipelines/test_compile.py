"""The compiled pipelines: the same each time, and sound."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from calrec.cli.__main__ import parser
from calrec.cli.options import configuration
from calrec.config import runs
from calrec.config.overrides import merge
from pipelines.__main__ import main
from pipelines.compiling import PIPELINES, arguments, compile_components, compile_pipeline, load, pipeline
from pipelines.reference import document
from pipelines.validation import validate
from tests.compiled import compiled
from tests.conftest import REPO
from tests.pipelines.outline import outline
from tests.pipelines.small import IMAGE

CLUSTER = {
    "data_cpu": "1500m", "data_memory": "9Gi", "train_cpu": "12", "train_memory": "64Gi", "train_gpus": "4",
    "infer_cpu": "7", "infer_memory": "33Gi", "infer_gpus": "1", "accelerator": "amd.com/gpu",
    "node_selector": '{"pool": "gpus", "zone": "a"}',
    "tolerations": '[{"key": "amd.com/gpu", "operator": "Exists"}, '
    '{"key": "b", "operator": "Equal", "value": "c", "effect": "NoExecute", "tolerationSeconds": 30}]',
}  # fmt: skip
KINDS = {
    "watch": "data", "ingest": "data", "textify": "data", "base-model": "data", "evaluate": "data",
    "find-champions": "data", "stage-1": "train", "stage-2": "train", "refit": "train", "index": "infer",
    "generate": "infer", "retrieve": "infer", "champion": "infer", "promote": "infer", "recommend": "infer",
}  # fmt: skip


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


def test_the_pipelines_are_the_golden_ones():
    """When the change is wanted: python -m tests.pipelines.outline > tests/golden/pipelines.txt."""
    golden = (REPO / "tests/golden/pipelines.txt").read_text()
    assert "\n".join(outline(compiled(name)) for name in PIPELINES) == golden
    assert len(golden.splitlines()) <= 300
    assert [validate(compiled(name)) for name in PIPELINES] == [[], []]


def test_two_processes_write_the_same_bytes(tmp_path: Path):
    for seed in (1, 2):  # of hashes, and so of the order of sets
        command = [sys.executable, "-m", "pipelines", "compile", "--out", str(tmp_path / str(seed))]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PATH": ""}
        subprocess.run(command, check=True, cwd=REPO, env=environment, capture_output=True)
        for name in PIPELINES:
            assert (tmp_path / str(seed) / f"calrec-{name}.yaml").read_bytes() == compiled(name).read_bytes()


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_installs_anything_or_carries_a_secret(tmp_path: Path, name: str):
    secrets = {"MLFLOW_TRACKING_PASSWORD": "a-password", "MLFLOW_TRACKING_TOKEN": "a-token", "KFP_TOKEN": "a-key"}
    secrets["AWS_SECRET_ACCESS_KEY"] = "hunter2"
    command = [sys.executable, "-m", "pipelines", "compile", "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=REPO, env={**os.environ, **secrets}, capture_output=True)
    text = (tmp_path / f"calrec-{name}.yaml").read_text()
    assert "pip install" not in text and not any(secret in text for secret in secrets.values())
    for _, told in pods_of(compiled(name)).values():
        assert [(one["secretName"], one["optional"]) for one in told["secretAsEnv"]] == [("calrec", True)]
        assert [(one["configMapName"], one["optional"]) for one in told["configMapAsEnv"]] == [("calrec", True)]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_image_is_set_for_every_step(tmp_path: Path, name: str):
    path = compile_pipeline(name, runs.tiny(), tmp_path, image=IMAGE)
    assert {container["image"] for container, _ in pods_of(path).values()} == {IMAGE}
    assert "calrec:0.1.0" not in path.read_text()
    assert validate(path) == []


def test_data_and_training_are_cached_and_effects_are_not():
    effects = {"watch", "evaluate", "promote", "find-champions", "recommend"}
    steps = set()
    for name in PIPELINES:
        for task, settings in tasks_of(compiled(name)).items():
            if "retryPolicy" in settings:  # a step, not a sub-pipeline
                steps.add(task)
                assert settings.get("cachingOptions", {}).get("enableCache", False) == (task not in effects), task
    assert (
        effects < steps
        and {"ingest", "textify", "base-model", "stage-1", "stage-2", "refit", "generate", "champion"} < steps
    )


def wanted(kind: str, cluster: dict[str, str]) -> tuple[Any, Any, Any]:
    """Resources, node selector and tolerations of a kind of pod, as the configuration has them."""
    cpu, memory, gpus = (cluster.get(f"{kind}_{what}") for what in ("cpu", "memory", "gpus"))
    resources = {"resourceCpuRequest": cpu, "resourceCpuLimit": cpu}
    resources |= {"resourceMemoryRequest": memory, "resourceMemoryLimit": memory}
    if kind == "data":
        return resources, None, None
    resources |= {"accelerator": {"resourceType": cluster["accelerator"], "resourceCount": gpus}}
    return resources, {"labels": json.loads(cluster["node_selector"])}, json.loads(cluster["tolerations"])


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pod_gets_what_the_configuration_says(tmp_path: Path, name: str):
    path = compile_pipeline(name, merge(runs.sample(), {"cluster": CLUSTER}), tmp_path)
    assert validate(path) == []
    for step, (container, told) in pods_of(path).items():
        given = container["resources"], told.get("nodeSelector"), told.get("tolerations")
        assert given == wanted(KINDS[step], CLUSTER), step
        assert told["podMetadata"]["labels"]["app.kubernetes.io/component"] == KINDS[step]


def test_without_gpus_nothing_speaks_of_them(tmp_path: Path):
    changed = {**CLUSTER, "train_gpus": "0", "infer_gpus": "1", "node_selector": "{}", "tolerations": "[]"}
    pods = pods_of(compile_pipeline("training", merge(runs.sample(), {"cluster": changed}), tmp_path))
    on_gpus = {step for step, (container, _) in pods.items() if "accelerator" in container["resources"]}
    assert on_gpus == {step for step in pods if KINDS[step] == "infer"}
    for name in PIPELINES:
        text = json.dumps(pods_of(compiled(name)))
        assert not any(word in text for word in ("accelerator", "nvidia", "nodeSelector", "tolerations"))


@pytest.mark.parametrize("name", PIPELINES)
def test_another_cluster_changes_nothing_but_what_pods_get(tmp_path: Path, name: str):
    """Not the parameters either, nor what KFP's cache goes by: inputs, outputs, image and command of a step."""
    config = merge(runs.sample(), {"cluster": CLUSTER})
    before, after = load(compiled(name)), load(compile_pipeline(name, config, tmp_path))
    assert before != after and arguments(name, config) == arguments(name, runs.sample())
    for specification, platform in (before, after):
        for executor in specification["deploymentSpec"]["executors"].values():
            del executor["container"]["resources"]
        for told in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            told.pop("nodeSelector", None), told.pop("tolerations", None)
    assert before == after


def test_two_configurations_are_compiled_at_a_time(tmp_path: Path):
    """Nothing is shared but the pipelines, which do not know a configuration."""
    memories = [f"{number}Gi" for number in range(20, 32)]

    def memory_of(memory: str) -> set[str]:
        config = merge(runs.sample(), {"cluster": {"infer_memory": memory}})
        pods = pods_of(compile_pipeline("batch", config, tmp_path / memory))
        return {container["resources"]["resourceMemoryLimit"] for container, _ in pods.values()}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(memory_of, memories)) == [{"8Gi", memory} for memory in memories]


@pytest.mark.parametrize("command", [["run"], ["study", "--data", "sets"]])
def test_what_pods_get_means_nothing_on_this_machine(command: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*command, "--set", "cluster.train_memory=64Gi"]) == 2
    assert "the section cluster is about pods; leave its settings out here" in capsys.readouterr().err


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_has_a_time_and_retries(name: str):
    assert all(int(told["activeDeadlineSeconds"]) >= 3600 for _, told in pods_of(compiled(name)).values())
    for task, settings in tasks_of(compiled(name)).items():
        if "cachingOptions" in settings and "retryPolicy" in settings:
            assert settings["retryPolicy"]["maxRetryCount"] == 2, task
            assert settings["taskInfo"]["name"].lower().replace(" ", "-") == task


@pytest.mark.parametrize("name", PIPELINES)
def test_each_retry_has_the_time_that_it_may_take(name: str):
    """Argo counts backoffMaxDuration from the first attempt: the last one must still end before it."""
    specification, platform = load(compiled(name))
    limits = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    steps = []
    for component in (specification["root"], *specification["components"].values()):
        for step, task in component.get("dag", {}).get("tasks", {}).items():
            executor = specification["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor:
                steps.append(step)
                policy, limit = task["retryPolicy"], int(limits[executor]["activeDeadlineSeconds"])
                assert (policy["backoffDuration"], policy["backoffFactor"], policy["maxRetryCount"]) == ("30s", 2, 2)
                assert int(policy["backoffMaxDuration"].removesuffix("s")) >= 3 * limit + 30 + 60, step
    assert sorted(steps) == sorted(pods_of(compiled(name)))


@pytest.mark.parametrize("name", PIPELINES)
def test_no_pod_is_root_and_what_it_spills_is_bounded(name: str):
    for _, told in pods_of(compiled(name)).values():
        assert told["securityContext"] == {"runAsNonRoot": True}
        assert {"volumeName": "tmp", "mountPath": "/tmp", "sizeLimit": "50Gi"} in told["emptyDirMounts"]


def test_a_trainings_pod_knows_its_time_limit_and_has_shared_memory():
    pods = pods_of(compiled("training"))
    shared = {step for step, (_, told) in pods.items() if "/dev/shm" in str(told["emptyDirMounts"])}
    assert shared == {"stage-1", "stage-2", "refit"}
    for step in shared:
        container, told = pods[step]
        assert [one["medium"] for one in told["emptyDirMounts"][1:]] == ["Memory"]
        assert {"name": "CALREC_TIME_LIMIT", "value": told["activeDeadlineSeconds"]} in container["env"]


def test_a_claim_is_mounted_where_files_are_kept(tmp_path: Path):
    path = compile_pipeline("training", runs.tiny(), tmp_path, claim="calrec-cache")
    for container, told in pods_of(path).values():
        assert [(one["constant"], one["mountPath"]) for one in told["pvcMount"]] == [("calrec-cache", "/cache")]
        assert {"name": "CALREC_CACHE", "value": "/cache/calrec"} in container["env"]
    assert validate(path) == []


# --- parameters ---------------------------------------------------------------------------------------------------


def test_the_table_of_parameters_is_that_of_the_code():
    """When it is not: calrec parameters > pipelines/PARAMETERS.md."""
    assert (REPO / "pipelines/PARAMETERS.md").read_text() == document(runs.sample())


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_described_and_reached_from_the_command_line(name: str):
    inputs = set(pipeline(name).component_spec.inputs)
    assert inputs == set(arguments(name, runs.sample()))
    text = document(runs.sample()).split(f"## Pipeline `{name}`")[1].split("## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:3] == "| `"]
    assert {row[0] for row in rows} == inputs and all(row[4] for row in rows)
    before = arguments(name, runs.sample())
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
        else:
            given = ["--set", settings[parameter]]
        options = parser().parse_args(["compile", name, "--out", "build", *given])
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
        (missing_producer, "comp-calrec-models / base-model: input texts comes from task x, which does not exist here"),
        (missing_output, "has no such output"),
        (missing_input, "comp-calrec-models / textify: required input text is not given"),
        (missing_component, "comp-calrec-models / textify: component comp-textify does not exist"),
        (missing_executor, "comp-textify: executor exec-textify does not exist"),
        (missing_dependency, "comp-calrec-models / base-model: depends on gone, which is no task here"),
    ],
)
def test_validate_finds(tmp_path: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]):
    documents = [*load(compiled("training"))]
    damage(documents)
    faults = validate(write(tmp_path / "p.yaml", documents))
    assert any(message in fault for fault in faults), faults
    assert "hunter2" not in str(faults) and "s3cret" not in str(faults)
    assert main(["validate", str(tmp_path / "p.yaml")]) == 1
    assert message in capsys.readouterr().out


def test_validate_passes_what_is_sound(capsys: pytest.CaptureFixture[str]):
    path = compiled("training")
    assert main(["validate", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: sound\n"


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


def test_each_component_can_be_used_in_another_pipeline(tmp_path: Path):
    paths = {path.stem: path for path in compile_components(tmp_path)}
    assert set(paths) == {
        "ingest", "textify", "base-model", "finetune", "generate", "retrieve", "index", "champion", "recommend",
        "evaluate", "promote",
    }  # fmt: skip
    ingest = components.load_component_from_file(str(paths["ingest"]))
    assert set(ingest.component_spec.inputs) == {"domain", "uri", "snapshot", "data"}
    assert "interactions" in ingest.component_spec.outputs
