"""What an image must be able to do: the programs that a pod starts, and seven steps on a small part of the sample.

The build runs it twice: to compile what numba compiles, and to see that the image works. It needs no network, and
writes to the temporary directory and the folders of caches only.
"""

import importlib.metadata
import subprocess
import tempfile
import time
from pathlib import Path

DOMAIN = "seafood"
EXECUTOR = "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main --help"


def commands(folder: Path) -> dict[str, list[str]]:
    """The arguments of each step, in order."""
    made = {
        name: str(folder / name)
        for name in ("ingest", "textify", "tokens", "model", "finetune", "generate", "retrieve")
    }
    data, target = ["--texts", made["textify"], "--tokens", made["tokens"]], ["--target", DOMAIN]
    generations = ["--texts", made["textify"], "--generations", made["generate"]]
    return {
        "ingest": ["--source", f"sample:{DOMAIN.upper()}", "--domain", DOMAIN],
        "textify": ["--data", made["ingest"]],
        "model": ["--texts", made["textify"], "--tokens-out", made["tokens"]],
        "finetune": [*data, "--model", made["model"], "--stage", "stage2", *target],
        "generate": ["--ablation", "trie", *data, "--model", made["finetune"], *target],
        "retrieve": generations,
        "evaluate": [*generations, "--recommendations", made["retrieve"]],
    }


def check() -> None:
    """Run everything, each in a process of its own as in a pod, and stop at what fails."""
    for command in (["calrec", "--help"], ["sh", "-c", EXECUTOR]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"smoke: {' '.join(command)}", flush=True)
    for name in ("torch", "kfp", "mlflow", "google-cloud-storage"):
        print(f"smoke: {name} {importlib.metadata.version(name)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        for step, arguments in commands(Path(folder)).items():
            started = time.perf_counter()
            subprocess.run(["calrec", step, "--run", "tiny", "--out", str(Path(folder) / step), *arguments], check=True)
            print(f"smoke: calrec {step} {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    check()
