"""What a step shows in KFP's run view: figures, words, and a page."""

import json
import shutil
from pathlib import Path
from typing import Any

from calrec.artifacts import Manifest
from calrec.report import manifests


def fill(manifest: Manifest | None, folder: str | Path, metrics: Any, summary: Any, page: Any = None) -> None:
    """Write a finished folder's counts and description to the artifacts that KFP shows; a second folder is added.

    Args:
        manifest: what the step made; None in a process of torchrun that leaves it to the first.
        folder: where it made it.
        metrics: KFP's Metrics.
        summary: KFP's Markdown.
        page: KFP's HTML, of a step that writes a report.html.
    """
    if manifest is None:
        return
    metrics.metadata.update(manifests.numbers(manifest))
    # KFP shows the metadata; its local runner runs a step again that has an output without a file.
    Path(metrics.path).write_text(json.dumps(metrics.metadata))
    with Path(summary.path).open("a") as stream:
        stream.write(manifests.markdown(manifest, Path(folder)) + "\n")
    if page is not None:
        shutil.copy(Path(folder) / "report.html", page.path)
