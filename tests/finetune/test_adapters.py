"""What stages train as adapters, kept as one adapter of the base model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from calrec import artifacts
from calrec.config import LaunchConfig, ModelConfig, StageConfig, TextConfig
from calrec.finetune.adapters import combine_adapters, extract_adapter, read_adapter
from calrec.finetune.step import finetune
from calrec.finetune.tuning import add_adapters, merge_adapters
from calrec.launch.shared_folder import SharedFolder
from calrec.launch.stage import finetune as launched
from calrec.model import checkpoint
from calrec.model.origin import base_of
from calrec.model.step import base_model
from calrec.textify.step import textify
from tests.conftest import shared
from tests.finetune.test_tuning import IDS, LORA, gpt2, llama, moved

STAGE = StageConfig(
    steps=6, batch_size=4, lr=1e-2, train_on="all", valid_every=2, valid_users=16, checkpoint_every=4, threads=1
)  # fmt: skip
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # rounding of fp32: two sums of products against one


@pytest.fixture
def world(small: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(small), "model": replace(small.model, tuning="lora", lora_rank=4, lora_alpha=8.0)})


@pytest.fixture
def toy(small: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """A pretrained checkpoint as base model."""
    tuning = ModelConfig(name=str(shared("models", "aidreams-260k")), tuning="lora", lora_rank=4, lora_alpha=8.0)
    texts, base, tokens = (tmp_path / name for name in ("texts", "base", "tokens"))
    textify([small.root / "home", small.root / "garden"], texts, TextConfig(max_tokens=64, max_item_tokens=32))
    base_model(texts, base, tokens, tuning)
    return SimpleNamespace(texts=texts, base=base, tokens=tokens, model=tuning)


def run(world: SimpleNamespace, start: Path, out: Path, steps: int = 6, **options: Any) -> Path:
    """A stage; options of the stage and of the model by their names."""
    ours = {key: options.pop(key) for key in list(options) if key in vars(STAGE)}
    tuning = replace(world.model, **options)
    finetune(world.texts, world.tokens, start, out, replace(STAGE, steps=steps, **ours), tuning, out.name)
    return out


def notes(folder: Path) -> tuple[str, ...]:
    return artifacts.read_verified(folder, "model").notes


def loaded(folder: Path, base: Path) -> Any:
    """The network of a model's adapter, which is put beside nothing but the base that it names."""
    apart = Path(shutil.copytree(folder / "adapter", folder.with_name(f"{folder.name}-apart")))
    path = apart / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    return checkpoint.load(apart)[0]


def assert_same_network(ours: Any, theirs: Any) -> None:
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, weight in ours.state_dict().items():
        assert torch.allclose(weight, state[name], **CLOSE), name
    ids = torch.arange(5, 25)[None]
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-4)


def change(folder: Path, base: Path) -> float:
    """The largest change of a weight since the base."""
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, base))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


# --- stages add up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["world", "toy"])
def test_the_adapter_of_two_stages_on_the_base_is_the_merged_model(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
):
    world = request.getfixturevalue(which)
    one = run(world, world.base, tmp_path / "one")
    two = run(world, one, tmp_path / "two")
    assert change(one, world.base) > 0.01 and change(two, one) > 0.01
    for folder, rank in ((one, 4), (two, 8)):
        kept = read_adapter(folder)
        assert kept is not None and {len(w) for name, w in kept.weights.items() if "lora_A" in name} == {rank}
        assert (kept.config["r"], kept.config["lora_alpha"], kept.config["rank_pattern"]) == (rank, 2.0 * rank, {})
        assert kept.config["target_modules"] == sorted(kept.config["target_modules"])  # a set of PEFT's, in any order
        assert_same_network(loaded(folder, world.base), checkpoint.load(folder)[0])
        assert not notes(folder)


def test_what_is_kept_are_the_averaged_best_weights(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one", steps=10, lr=0.1, ema=0.5, valid_metric="ndcg")
    counts = artifacts.read_manifest(one).counts
    assert 0 < counts["best_step"] < 10
    assert_same_network(loaded(one, world.base), checkpoint.load(one)[0])


@pytest.mark.long
def test_what_two_processes_share_out_is_kept_whole(world: SimpleNamespace, tmp_path: Path):
    launch = LaunchConfig(launcher="torchrun", processes=2, sharding="fsdp")
    launched(
        world.texts, world.tokens, world.base, tmp_path / "m", stage=STAGE, tuning=world.model, launch=launch,
        log=lambda step, values: None, train=finetune,
    )  # fmt: skip
    assert change(tmp_path / "m", world.base) > 0.01
    assert_same_network(loaded(tmp_path / "m", world.base), checkpoint.load(tmp_path / "m")[0])


def test_stages_with_other_ranks_scales_and_layers_add_up(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one", lora_targets=("q_proj", "1.mlp.down_proj"))
    two = run(world, one, tmp_path / "two", lora_targets=("q_proj", "v_proj"), lora_rank=2, lora_alpha=1.0)
    kept = read_adapter(two)
    assert kept is not None and kept.config["target_modules"] == ["1.mlp.down_proj", "q_proj", "v_proj"]
    ranks = {name.split(".")[-3]: len(w) for name, w in kept.weights.items() if "lora_A" in name}
    assert ranks == {"q_proj": 6, "v_proj": 2, "down_proj": 4}
    assert_same_network(loaded(two, world.base), checkpoint.load(two)[0])


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("alpha", [2.0, 0.0])
def test_joined_adapters_change_the_weights_as_both_do(make: Any, alpha: float):
    """GPT-2 stores its matrices transposed; with a scale of 0 the second adds nothing."""
    network, parts = make(), []
    for tuning in (LORA, replace(LORA, lora_rank=3, lora_alpha=alpha)):
        network = moved(add_adapters(network, tuning).eval())
        parts.append(extract_adapter(network))
        network = merge_adapters(network)
    both = combine_adapters(*parts)
    own = get_peft_model(make(), LoraConfig(**dict(both.config)))
    set_peft_model_state_dict(own, dict(both.weights))
    assert torch.allclose(own.eval()(IDS).logits, network(IDS).logits, atol=1e-5)
    assert not torch.allclose(make()(IDS).logits, network(IDS).logits, atol=0.05)


# --- what passes through, and what cannot be kept ---------------------------------------------------------------


def test_a_stage_of_0_steps_passes_the_adapter_on(world: SimpleNamespace, tmp_path: Path):
    none = run(world, world.base, tmp_path / "none", steps=0)
    one = run(world, none, tmp_path / "one")
    again = run(world, one, tmp_path / "again", steps=0)
    assert not (none / "adapter").exists() and base_of(none)["tuning"] == "none"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (again / "adapter" / name).read_bytes() == (one / "adapter" / name).read_bytes()
    manifests = [artifacts.read_verified(folder, "model") for folder in (none, one, again)]
    assert manifests[1].digest == manifests[2].digest and not any(manifest.notes for manifest in manifests)
    assert_same_network(loaded(again, world.base), checkpoint.load(again)[0])


def test_an_adapter_on_whole_new_weights_is_none_of_the_base(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one", tuning="full")
    two = run(world, one, tmp_path / "two")
    refit = run(world, two, tmp_path / "refit", steps=0)
    why = "no adapter of the base model is kept: a stage before trained every weight"
    assert [notes(folder) for folder in (one, two, refit)] == [(), (why,), (why,)]
    assert not any((folder / "adapter").exists() for folder in (one, two, refit))


def test_whole_new_weights_on_an_adapter_are_none_either(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one")
    two = run(world, one, tmp_path / "two", tuning="full")
    assert not (two / "adapter").exists() and notes(two) == () and base_of(two)["tuning"] == "full"


@pytest.mark.parametrize("then", [False, True])
def test_dora_is_kept_alone_and_never_added_up(world: SimpleNamespace, tmp_path: Path, then: bool):
    one = run(world, world.base, tmp_path / "one", dora=True)
    assert any("lora_magnitude" in name for name in load_file(one / "adapter/adapter_model.safetensors"))
    assert_same_network(loaded(one, world.base), checkpoint.load(one)[0])
    two = run(world, one, tmp_path / "two", dora=then)
    assert notes(two) == ("no adapter of the base model is kept: DoRA's adapters of two stages cannot be one",)
    three = run(world, two, tmp_path / "three")
    lost = "no adapter of the base model is kept: adapters of the stages before were not kept, or cannot be one"
    assert notes(three) == (lost,) and not any((folder / "adapter").exists() for folder in (two, three))


def test_dora_cannot_be_put_on_an_adapter(world: SimpleNamespace, tmp_path: Path):
    two = run(world, run(world, world.base, tmp_path / "one"), tmp_path / "two", dora=True)
    assert "DoRA's adapters of two stages" in notes(two)[0] and not (two / "adapter").exists()


def test_a_model_of_before_adapters_were_kept_is_gone_on_with(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one")
    made = artifacts.read_manifest(one, "model")
    shutil.rmtree(one / "adapter")
    (one / "manifest.json").unlink()
    config = {name: value for name, value in made.config.items() if name != "base"}
    artifacts.finish(one, replace(made, config=config))
    two = run(world, one, tmp_path / "two")
    assert notes(two) == (
        "no adapter of the base model is kept: adapters of the stages before were not kept, or cannot be one",
    )
    assert base_of(two) | {"parameters": 0} == {
        "base_model": "scratch", "base_digest": "", "tuning": "lora", "adapter": False, "parameters": 0
    }  # fmt: skip


# --- what lies there --------------------------------------------------------------------------------------------


def test_the_same_stages_keep_the_same_bytes_wherever_they_run(world: SimpleNamespace, tmp_path: Path):
    digests = set()
    for place in ("here", "there"):
        one = run(world, world.base, tmp_path / place / "one")
        digests.add(artifacts.read_verified(run(world, one, tmp_path / place / "two"), "model").digest)
    assert len(digests) == 1


def test_a_model_is_loaded_from_its_merged_weights_alone(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one")
    whole = checkpoint.load(one)[0].state_dict()
    (one / "adapter/adapter_model.safetensors").write_bytes(b"damaged")
    assert all(torch.equal(weight, whole[name]) for name, weight in checkpoint.load(one)[0].state_dict().items())
    with pytest.raises(ValueError, match=r"adapter/adapter_model.safetensors changed after it was written"):
        artifacts.read_verified(one, "model")


def test_an_adapter_finds_a_base_that_has_a_name(toy: SimpleNamespace, tmp_path: Path):
    one = run(toy, toy.base, tmp_path / "one")
    assert json.loads((one / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == toy.model.name
    assert_same_network(checkpoint.load(one / "adapter")[0], checkpoint.load(one)[0])


def test_an_adapter_tells_which_scratch_model_it_is_of(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    one = run(world, world.base, tmp_path / "one")
    digest = artifacts.read_manifest(world.base).digest
    message = rf"its base 'scratch-{digest}' cannot be loaded.*Edit base_model_name_or_path in .*adapter_config.json"
    with pytest.raises(ValueError, match=message):
        checkpoint.load(one / "adapter")


def test_an_adapter_travels_with_its_model(world: SimpleNamespace, tmp_path: Path):
    one = run(world, world.base, tmp_path / "one")
    shared_folder = SharedFolder(str(tmp_path / "exchange"))
    shared_folder.upload(one, "result")
    shared_folder.download("result", tmp_path / "copy")
    assert artifacts.read_verified(tmp_path / "copy", "model") == artifacts.read_verified(one, "model")
    assert (tmp_path / "copy/adapter/adapter_config.json").is_file()
