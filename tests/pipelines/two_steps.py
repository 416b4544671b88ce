"""Two steps at a time on KFP's local runner: python -m tests.pipelines.two_steps FOLDER.

Each is a shell, Python below it, and a child in a session of its own, as torchrun is; each says what it was told.
"""

import signal
import sys
import warnings
from pathlib import Path

from kfp import dsl, local

from pipelines import ending


@dsl.component(base_image="python", install_kfp_package=False)
def wait(folder: str, name: str) -> None:
    import os
    import signal
    import subprocess
    import sys
    import time
    from pathlib import Path

    mine = Path(folder, name)
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


def main(folder: str) -> int:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what is started in the background
    try:
        with ending.in_charge() as steps, ending.processes(steps) as runner:
            local.init(runner=runner, pipeline_root=folder)
            # Two at a time: the third one must never begin.
            two_steps(folder=folder, names=["stage2-books", "stage2-toys", "after"])
    except ending.EndedError as stop:
        print(f"ended by {stop}")
        return stop.code
    return 0


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    sys.exit(main(sys.argv[1]))
