"""Two steps at a time on KFP's local runner: python -m tests.pipelines.two_steps FOLDER [IMAGE [NAMES]].

Each is a shell, Python below it, and a child in a session of its own, as torchrun is; each says what it was told.
"""

import contextlib
import signal
import sys
import warnings
from pathlib import Path

from kfp import dsl, local

from pipelines import ending
from pipelines.docker_run import containers
from pipelines.local_run import for_this_machine


@dsl.component(base_image="python", install_kfp_package=False)
def wait(folder: str, name: str) -> None:
    import os
    import signal
    import subprocess
    import sys
    import time
    from pathlib import Path

    mine = Path(folder, name)
    if name == "stray":  # a daemon that keeps the output open
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        (mine.with_suffix(".pids")).write_text(str(subprocess.Popen(command, start_new_session=True).pid))
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory ends
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (mine.with_suffix(".pids")).write_text(f"{os.getpid()} {child.pid}")

    def told(*_: object) -> None:
        time.sleep(0.3)  # a checkpoint
        child.kill()
        mine.with_suffix(".told").write_text("SIGTERM")
        sys.exit(75)

    signal.signal(signal.SIGTERM, told)
    mine.with_suffix(".ready").touch()
    time.sleep(600)


@dsl.pipeline(name="two-steps")
def two_steps(folder: str, names: list) -> None:
    with dsl.ParallelFor(names) as name:
        wait(folder=folder, name=name)


@contextlib.contextmanager
def in_containers(image: str, folder: str, steps: ending.Steps):
    """Containers of an empty image with this machine's system and environment in it."""
    from docker.types import Mount

    with containers(image, Path(folder), {}, steps) as runner:
        homes = {str(Path(sys.prefix).resolve()), str(Path(sys.base_prefix).resolve())}
        system = [path for path in ("/usr", "/bin", "/lib", "/lib64", "/etc") if Path(path).exists()]
        given = runner.container_run_args
        given["mounts"] += [Mount(path, path, type="bind", read_only=True) for path in sorted({*homes, *system})]
        given["environment"]["PATH"] = f"{sys.prefix}/bin:/usr/bin:/bin"
        yield runner


def main(folder: str, image: str = "", names: str = "stage2-books,stage2-toys,after") -> int:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what is started in the background
    try:
        with (
            ending.in_charge() as steps,
            in_containers(image, folder, steps) if image else ending.processes(steps) as runner,
        ):
            local.init(runner=runner, pipeline_root=f"{folder}/artifacts")
            for_this_machine(two_steps, image)
            # Two at a time: the third one must never begin.
            two_steps(folder=folder, names=names.split(","))
    except ending.EndedError as stop:
        print(f"ended by {stop}")
        return stop.code
    return 0


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    sys.exit(main(*sys.argv[1:]))
