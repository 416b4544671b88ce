"""What a step of the training DAG costs on KFP's local runner beyond its body: the DAG with toy bodies.

The reference is what cannot be saved: a Python process that imports KFP's executor, as each step starts one.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 3
GIVEN = {"sources": {"home": "x", "garden": "y"}, "targets": ["home", "garden"], "toys": True}


def pipeline() -> dict[str, Any]:
    """Seconds per step of the whole DAG, two sources and two targets.

    Returns:
        seconds of a step beside its body, reference_seconds of the bare process, their ratio, steps.
    """
    seconds, bare, steps = [], [], 0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as root:
            command = [sys.executable, "-m", "tests.pipelines.locally", "training", root, json.dumps(GIVEN)]
            environment = {**os.environ, "TMPDIR": root}
            shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            steps = len((Path(root) / "ran").read_text().split())
        (took,) = re.findall(r"the pipeline took ([\d.]+) s", shown)
        seconds.append(float(took) / steps)
        started = time.perf_counter()
        program = "import kfp.dsl.executor_main"
        subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "_KFP_RUNTIME": "true"})
        bare.append(time.perf_counter() - started)
    step, process = statistics.median(seconds), statistics.median(bare)
    what = f"a bare Python process against a step of the training DAG with a toy body: {step:.2f} s, {steps} steps"
    return {"what": what, "seconds": step, "reference_seconds": process, "ratio": process / step, "steps": steps}
