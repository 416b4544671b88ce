"""What a step leaves for KFP's run view, in KFP's own artifacts."""

import json
from pathlib import Path

import pytest
from kfp import dsl

from calrec.artifacts import Manifest, write_record
from calrec.report import kfp_view, manifests


@pytest.fixture
def shown(tmp_path: Path) -> tuple[dsl.Metrics, dsl.Markdown, dsl.HTML]:
    made = dsl.Metrics(), dsl.Markdown(), dsl.HTML()
    for number, artifact in enumerate(made):
        artifact.uri = str(tmp_path / f"artifact-{number}")
    return made


def test_a_step_with_reports_shows_them(tmp_path: Path, shown: tuple[dsl.Metrics, dsl.Markdown, dsl.HTML]):
    manifest = Manifest("interactions", config={"domain": "books"}, counts={"users": 7, "first_event": "2020-01-01"})
    manifests.write_report(tmp_path, "books", manifest)
    kfp_view.fill(manifest, tmp_path, *shown)
    metrics, summary, page = shown
    assert metrics.metadata == json.loads(Path(metrics.path).read_text()) == {"users": 7.0}
    assert Path(summary.path).read_text() == (tmp_path / "report.md").read_text() + "\n"
    assert Path(page.path).read_text() == (tmp_path / "report.html").read_text()


def test_two_folders_of_a_step_are_shown_together(tmp_path: Path, shown: tuple[dsl.Metrics, dsl.Markdown, dsl.HTML]):
    metrics, summary, _ = shown
    write_record(tmp_path, {}, [{"step": 1, "nig": 3.0}, {"step": 2, "valid_nig": 2.5}])
    kfp_view.fill(Manifest("model", counts={"parameters": 9000, "threads": 2}), tmp_path, metrics, summary)
    kfp_view.fill(Manifest("tokens", counts={"items": 3}), tmp_path / "none", metrics, summary)
    assert metrics.metadata == {"parameters": 9000.0, "items": 3.0}
    text = Path(summary.path).read_text()
    assert "| parameters | 9,000 |" in text and "| 2 | 2.5000 |" in text and "| items | 3 |" in text


def test_a_process_that_leaves_it_to_the_first_shows_nothing(shown: tuple[dsl.Metrics, dsl.Markdown, dsl.HTML]):
    metrics, summary, _ = shown
    kfp_view.fill(None, "", metrics, summary)
    assert metrics.metadata == {} and not Path(summary.path).exists()
