"""The core stands without kfp, mlflow and buckets; light modules load nothing heavy."""

import subprocess
import sys

import pytest

CORE = [
    "config", "artifacts", "ingest.step", "textify.step", "model.step", "model.loading", "finetune.step",
    "generate.step", "generate.shared_prefix", "retrieve.step", "evaluate.step", "promote.step",
]  # fmt: skip


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_core_imports_without_kfp_mlflow_and_google():
    imports = "; ".join(f"import calrec.{name}" for name in CORE)
    run(f"import sys; sys.modules.update(dict.fromkeys(['kfp', 'mlflow', 'google'])); {imports}")


def test_training_and_generation_import_without_what_only_the_readers_need():
    imports = "; ".join(f"import calrec.{name}" for name in CORE if name != "ingest.step")
    run(f"import sys; sys.modules.update(dict.fromkeys(['numba', 'isal', 'orjson'])); {imports}")


@pytest.mark.parametrize("module", ["textify.texts", "evaluate.metrics", "config", "artifacts", "cli", "ingest.step"])
def test_light_modules_load_neither_torch_nor_kfp_nor_mlflow(module: str):
    run(
        f"import sys, calrec.{module}\n"
        "heavy = {'torch', 'kfp', 'mlflow', 'transformers', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
