"""What a container may use of the machine, read from folders as the kernel shows them; processes obey it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from calrec.system import machine

CPUS = len(os.sched_getaffinity(0))
MANY = 64  # of a machine that is larger than any quota below


def tree(root: Path, groups: str, **files: str) -> Path:
    """A root with /proc/self/cgroup, and files below /sys/fs/cgroup whose names have __ for /."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


V1 = "9:name=systemd:/\n4:cpu,cpuacct:/kubepods/pod7\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "400000 100000"}, 4.0),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b\n", {"a__b__cpu.max": "max 100000", "a__cpu.max": "300000 100000", "cpu.max": "max 100000"}, 3.0),
        ("0::/a/b\n", {"a__b__cpu.max": "200000 100000", "a__cpu.max": "800000 100000"}, 2.0),
        ("0::/a/b\n", {"cpu.max": "100000 50000"}, 2.0),  # the host's path, the container's own group at the top
        ("0::/../x\n", {"x__cpu.max": "100000 100000"}, 1.0),
        ("0::/\n", {"unified__cpu.max": "300000 100000"}, 3.0),
        (V1, {"cpu__kubepods__cpu.cfs_quota_us": "600000", "cpu__kubepods__cpu.cfs_period_us": "100000"}, 6.0),
        (V1, {"cpu,cpuacct__cpu.cfs_quota_us": "150000", "cpu,cpuacct__cpu.cfs_period_us": "100000"}, 1.5),
        (V1, {"cpu__cpu.cfs_quota_us": "-1", "cpu__cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/x\n", {"memory__x__cpu.max": "100000 100000"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        ("0::/\n", {}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_container(tmp_path: Path, groups: str, files: dict[str, str], quota: float | None):
    assert machine.quota(tree(tmp_path, groups, **files)) == quota


def test_a_machine_that_shows_no_groups_has_no_quota(tmp_path: Path):
    assert (
        machine.quota(tmp_path) is None and machine.cores(tmp_path) == CPUS and machine.describe_limit(tmp_path) == ""
    )


@pytest.mark.parametrize(
    ("limit", "cores"), [("400000", 4), ("250000", 2), ("199999", 1), ("50000", 1), ("max", MANY), ("9900000", MANY)]
)
def test_cores_are_whole_and_at_least_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))
    monkeypatch.setattr(os, "cpu_count", lambda: MANY)
    root = tree(tmp_path, "0::/\n", **{"cpu.max": f"{limit} 100000"})
    assert machine.cores(root) == cores
    assert machine.describe_limit(root) == (
        "" if cores == MANY else f"{cores} threads (the container's CPU limit; the machine has 64)"
    )


def test_a_mask_that_is_smaller_than_the_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 9})
    root = tree(tmp_path, "0::/\n", **{"cpu.max": "400000 100000"})
    assert machine.cores(root) == 2 and machine.describe_limit(root) == ""


def test_variables_for_other_processes_are_shared_out_and_never_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))
    monkeypatch.setattr(os, "cpu_count", lambda: MANY)
    root = tree(tmp_path, "0::/\n", **{"cpu.max": "800000 100000"})
    eight = machine.environment({}, root=root)
    assert eight["OMP_NUM_THREADS"] == eight["RAYON_NUM_THREADS"] == eight["OPENBLAS_NUM_THREADS"] == "8"
    assert machine.environment(eight, 2, root)["OMP_NUM_THREADS"] == "4"  # what a parent had set itself
    given = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "64", "GOMP_SPINCOUNT": "7"}
    found = machine.environment(given, root=root)
    assert [found[name] for name in given] == ["1", "8", "7"]
    assert "GOMP_SPINCOUNT" not in machine.environment({"OMP_WAIT_POLICY": "ACTIVE"}, root=root)
    assert machine.environment({}, root=tmp_path / "none") == machine.WAITING


LOOK = """
import json, sys
import numpy, pyarrow, torch, tokenizers
from pathlib import Path
from calrec.system import machine
from threadpoolctl import threadpool_info
said = machine.prepare(Path(sys.argv[1]))
import os
pools = {(one["internal_api"], one["num_threads"]) for one in threadpool_info()}
rayon = os.environ["RAYON_NUM_THREADS"]
print(json.dumps([said, sorted(pools), pyarrow.cpu_count(), pyarrow.io_thread_count(), rayon]))
"""


@pytest.mark.skipif(CPUS < 2, reason="needs two CPUs to be held to one")
def test_libraries_that_are_loaded_already_are_held_too(tmp_path: Path):
    root = tree(tmp_path, "0::/\n", **{"cpu.max": "100000 100000"})
    own = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(root)], capture_output=True, text=True, check=True, env=own
    )  # fmt: skip
    said, pools, arrow, reading, rayon = json.loads(done.stdout)
    assert said == f"1 threads (the container's CPU limit; the machine has {os.cpu_count()})"
    assert {count for _, count in pools} == {1} and {"openblas", "openmp"} == {kind for kind, _ in pools}
    assert (arrow, reading, rayon) == (1, 2, "1")


def test_only_steps_of_large_networks_keep_memory(monkeypatch: pytest.MonkeyPatch):
    import torch

    from calrec.model import device

    monkeypatch.setattr(device, "LARGE", 1000)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")  # somebody said otherwise: this process is left as it is
    assert not device.keep_memory(torch.nn.Linear(99, 10)) and not device.keep_memory(torch.nn.Linear(100, 10))
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    kept: list[bool] = []
    monkeypatch.setattr(machine, "keep_memory", lambda: kept.append(True) or True)
    assert (
        not device.keep_memory(torch.nn.Linear(98, 10))
        and device.keep_memory(torch.nn.Linear(99, 10))
        and kept == [True]
    )


KEEP = """
import resource, sys
import numpy as np
from calrec.system import machine
kept = machine.keep_memory() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**24, np.float32)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def faults(way: str, **variables: str) -> tuple[str, int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    done = subprocess.run([sys.executable, "-c", KEEP, way], capture_output=True, text=True, check=True, env=own)
    kept, count = done.stdout.split()
    return kept, int(count)


def test_what_is_freed_is_kept_unless_somebody_said_otherwise():
    """64 MiB taken and freed twenty times are 20 x 16,384 pages of 4 KiB, or fewer larger ones, to be faulted in."""
    if sys.platform != "linux" or faults("keep")[0] != "True":
        pytest.skip("needs glibc")
    assert faults("keep")[1] < 200 < faults("not")[1]
    assert faults("keep", **machine.LARGE_BLOCKS)[0] == "False"


WAIT = """
import os, sys
from calrec.cli import __main__ as cli
assert "torch" not in sys.modules
assert cli.main(["inspect", "/nowhere"]) == 2
import torch
"""


@pytest.mark.parametrize(("given", "count"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5")])
def test_threads_of_torch_are_told_how_to_wait_before_they_begin(given: dict[str, str], count: str):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))} | given
    own["OMP_DISPLAY_ENV"] = "verbose"  # libgomp says what it read
    done = subprocess.run([sys.executable, "-c", WAIT], capture_output=True, text=True, env=own, check=True)
    if "OPENMP DISPLAY ENVIRONMENT" not in done.stderr:
        pytest.skip("this torch waits by another library than libgomp")
    assert f"GOMP_SPINCOUNT = '{count}'" in done.stderr
