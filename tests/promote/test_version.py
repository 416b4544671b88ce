"""A version's folder: what is in it, that it answers, and what is refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from calrec.artifacts import read_manifest, read_verified
from calrec.config import ModelConfig, StageConfig
from calrec.finetune.step import finetune
from calrec.promote.version import check_answers, example
from calrec.recommend.champion import open_version
from tests.versions import GENERATE, RETRIEVE, Judged, judged


@pytest.fixture(scope="module")
def adapted(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A model of which adapters alone were trained."""
    root = tmp_path_factory.mktemp("adapted")
    stage = StageConfig(steps=2, batch_size=8, train_on="all", valid_every=0, checkpoint_every=0, threads=1)
    tuning = ModelConfig(size="tiny", vocab_size=400, tuning="lora", lora_rank=4)
    finetune(small.texts, small.tokens, small.base, root / "tuned", stage, tuning, "stage2", ["home"])
    return judged(root, SimpleNamespace(**{**vars(small), "base": root / "tuned"}))


def test_a_model_tuned_by_adapters_is_whole_and_has_its_adapter_with_the_bases_name(
    adapted: Judged, small: SimpleNamespace, tmp_path: Path
):
    version = adapted.version(tmp_path / "version")
    manifest = read_verified(version, "version")
    base = read_manifest(small.base).digest
    named = {"base_model": "scratch", "base_digest": base, "tuning": "lora", "adapter": "True"}
    assert named.items() <= manifest.config.items()
    config = json.loads((version / "model/adapter/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (f"scratch-{base}", 4)
    assert sorted(path.name for path in (version / "model").glob("**/*.safetensors")) == [
        "adapter_model.safetensors",
        "model.safetensors",
    ]
    check_answers(version, example(adapted.index))
    card = (version / "card.md").read_text()
    assert card.startswith("# Model card: home") and "LoRA adapters of rank 4" in card and len(card) <= 5000


def test_what_was_judged_is_what_is_in_it(adapted: Judged, tmp_path: Path):
    version = adapted.version(tmp_path / "version")
    manifest, champion = read_manifest(version, "version"), open_version(version)
    assert (champion.generate, champion.retrieve) == (GENERATE, RETRIEVE)
    parts = {name: read_manifest(getattr(adapted, name)).digest for name in ("model", "index", "evaluation")}
    assert manifest.inputs == parts
    assert manifest.config["data"] == read_manifest(adapted.evaluation).inputs["texts"]
    assert (version / "profile.json").read_bytes() == (adapted.evaluation / "profile.json").read_bytes()
    other = adapted.version(tmp_path / "other" / "version", retrieve=dataclasses.replace(RETRIEVE, k=4))
    assert read_manifest(other).config["model"] != manifest.config["model"]


def test_a_model_that_was_changed_since_it_was_judged_is_no_version(adapted: Judged, tmp_path: Path):
    weights = adapted.model / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"model.safetensors changed after it was written"):
            adapted.version(tmp_path / "version")
    finally:
        weights.write_bytes(content)


def test_a_version_that_cannot_answer_is_told_before_it_is_registered(adapted: Judged, tmp_path: Path):
    version = adapted.version(tmp_path / "version")
    settings = json.loads((version / "settings.json").read_text())
    settings["retrieve"]["k1"] = 9.0  # the index was built with another one
    (version / "settings.json").unlink()
    (version / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"settings.json changed after it was written"):
        check_answers(version, example(adapted.index))
    with pytest.raises(ValueError, match=r"retrieve.k1=9.0, but the index was built with 1.5"):
        check_answers(
            adapted.version(tmp_path / "other" / "version", retrieve=dataclasses.replace(RETRIEVE, k1=9.0)),
            example(adapted.index),
        )


def test_the_example_is_of_the_most_frequent_items_and_nobodys_history(adapted: Judged):
    import pyarrow.parquet as pq

    items = pq.read_table(adapted.index / "items.parquet").to_pylist()
    items.sort(key=lambda item: (-item["train_count"], item["item_id"]))
    assert example(adapted.index) == [{"items": [item["item_id"] for item in items[:3]], "k": 5}]
