"""A compiled pipeline of three steps, one in a loop: that of this project takes seconds to read, and changes."""

from pathlib import Path

from kfp import compiler, dsl

IMAGE = f"registry/calrec@sha256:{'1' * 64}"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(source: str) -> None:
    pass


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def textify() -> int:
    return 1


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(count: int) -> None:
    pass


@dsl.pipeline(name="calrec-training")
def training(sources: list = ["books", "toys"]) -> None:  # noqa: B006
    with dsl.ParallelFor(sources) as source:
        ingest(source=source).set_display_name("Ingest")
    evaluate(count=textify().set_display_name("Textify").output).set_display_name("Evaluate")


def compiled(folder: Path) -> Path:
    """The pipeline as YAML."""
    path = folder / "small.yaml"
    compiler.Compiler().compile(training, str(path))
    return path
