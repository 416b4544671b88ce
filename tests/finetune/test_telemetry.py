"""FLOPs, memory, and the lines and the bar that a person sees."""

import os
import pty
import re
import subprocess
import sys
import termios
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from calrec.config import ModelConfig
from calrec.finetune import telemetry
from calrec.finetune.telemetry import Report, activation_bytes, expected_memory, flops, peak_by_name, peak_flops
from calrec.finetune.tuning import add_adapters

ROWS, LENGTH, PREDICTED = 3, 24, 7


def llama(**options: Any) -> Any:
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    return LlamaForCausalLM(LlamaConfig(**shape | options, vocab_size=60, attn_implementation="eager"))


def gpt2() -> Any:
    config = GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=60, n_positions=64, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel._from_config(config, attn_implementation="eager")


def counted(network: Any) -> int:
    """What the products of a real step cost, with logits on some tokens only."""
    core = network.get_base_model() if hasattr(network, "get_base_model") else network
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 60
    with FlopCounterMode(display=False) as counter:
        states = core.base_model(input_ids=ids, use_cache=False).last_hidden_state
        core.get_output_embeddings()(states.reshape(-1, 32)[:PREDICTED]).sum().backward()
    return counter.get_total_flops()


# Eager attention computes the masked half of the products as well, which `flops` leaves out.
MASKED = 6 * 3 * 32 * ROWS * LENGTH**2


@pytest.mark.parametrize(
    "network",
    [llama(), llama(tie_word_embeddings=True), llama(num_key_value_heads=2), llama(head_dim=8), gpt2()],
    ids=["llama", "tied", "grouped", "head_dim", "gpt2"],
)
def test_flops_are_those_of_a_real_step(network: Any):
    rotary = 0 if isinstance(network, GPT2LMHeadModel) else 2 * LENGTH * 4  # one product that makes the angles
    ours = flops(network, ROWS * LENGTH, ROWS * LENGTH**2, PREDICTED)
    assert counted(network) - ours - MASKED in (0, rotary)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_frozen_matrices_cost_no_gradient_of_their_own(make: Any):
    tuning = ModelConfig(tuning="lora", lora_rank=4)
    network = add_adapters(make(), tuning)
    # Below the first layer nothing is trained, so its first matrices have no gradient of their input.
    core = network.get_base_model().base_model
    core.get_input_embeddings().register_forward_hook(lambda module, args, out: out.requires_grad_())
    ours = flops(network, ROWS * LENGTH, ROWS * LENGTH**2, PREDICTED)
    assert counted(network) - ours - MASKED in (0, 2 * LENGTH * 4)
    assert ours < flops(make(), ROWS * LENGTH, ROWS * LENGTH**2, PREDICTED)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835.5, 60),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 0, 0),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA L40", 0, 0),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA A10G", 70, 35),
        ("Tesla T4", 0, 8.1),
        ("Tesla V100-PCIE-16GB", 0, 14),
        ("NVIDIA B200", 2250, 75),
        ("NVIDIA GB200", 0, 0),
        ("", 0, 0),
    ],
)
def test_known_gpus_have_the_peak_of_their_data_sheet(name: str, bf16: float, fp32: float):
    assert (peak_by_name(name, torch.bfloat16), peak_by_name(name, torch.float32)) == (bf16 * 1e12, fp32 * 1e12)
    assert peak_by_name(name, torch.float64) == 0


def test_an_unknown_device_is_measured_without_touching_the_random_numbers():
    state = torch.get_rng_state()
    assert peak_flops("cpu", torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), state)


# --- memory -----------------------------------------------------------------------------------------------------


def test_activations_are_counted_once_and_parameters_never():
    layer, x = torch.nn.Linear(8, 16), torch.ones(4, 8, requires_grad=True)
    assert activation_bytes(lambda: layer(x)) == 4 * 8 * 4
    assert activation_bytes(lambda: (layer(x), layer(x))) == 4 * 8 * 4
    assert activation_bytes(lambda: layer(x).exp()) == 4 * 8 * 4 + 4 * 16 * 4
    layer.requires_grad_(False)
    assert activation_bytes(lambda: layer(x)) == 0
    with torch.no_grad():
        assert activation_bytes(lambda: layer(x).exp()) == 0


def test_activations_grow_with_the_tokens_and_shrink_with_checkpointing():
    network = llama()
    sizes = [activation_bytes(lambda n=n: network(torch.ones(n, 8, dtype=torch.int64)).logits) for n in (1, 2, 3)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    network.gradient_checkpointing_enable()
    network.train()
    assert activation_bytes(lambda: network(torch.ones(3, 8, dtype=torch.int64)).logits) < sizes[2]


def test_expected_memory_is_weights_gradients_optimizer_and_activations():
    network = torch.nn.Linear(10, 10)
    assert expected_memory(network, 2.5, 4) == 110 * (4 + 4 + 8) + 10
    network.weight.requires_grad_(False)
    assert expected_memory(network, 0, 0, state=12) == 110 * 4 + 10 * (4 + 12)


def test_memory_is_what_the_process_takes():
    before = telemetry.memory_now()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert telemetry.memory_now() - before >= len(block) // 2


# --- the report -------------------------------------------------------------------------------------------------

METRICS = {"loss": 3.1, "nig": 3.5, "grad_norm": 1.234, "lr": 1e-3}
LINE = r"stage1 x: step {}/3 loss 3.100 nig 3.500 grad 1.23 lr 1.0e-03 [\d,]+ tokens/s \d+ % MFU \d+\.\d GiB ETA \d+ s"


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_lines_and_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(telemetry, "REPORT_SECONDS", 0.0)
    points: list[tuple[int, dict[str, float]]] = []
    report = Report("stage1 x", 3, lambda step, metrics: points.append((step, metrics)), 1, 1e9)
    for step in (2, 3):
        report.step(step, METRICS, tokens=100, flops=1e6)
    report.validation(3, {"nig": 2.5, "ndcg": 0.25}, better=True)
    report.validation(3, {"nig": 2.75}, better=False)
    lines = lines_of(capsys)
    assert [bool(re.fullmatch(LINE.format(step), line)) for step, line in zip((2, 3), lines, strict=False)] == [1, 1]
    assert lines[1].endswith("ETA 0 s")
    assert lines[2:] == [
        "stage1 x: step 3 validation nig 2.5000 nats/token, ndcg 0.2500 (best so far)",
        "stage1 x: step 3 validation nig 2.7500 nats/token",
    ]
    assert [step for step, _ in points] == [2, 3, 3, 3]
    assert points[0][1].keys() == {*METRICS, "tokens_per_second", "mfu", "memory_gib"}
    assert {name: points[0][1][name] for name in METRICS} == METRICS
    # 100 tokens and 1e6 FLOPs of 1e9 per second: both are shares of the same time.
    assert points[0][1]["mfu"] == pytest.approx(points[0][1]["tokens_per_second"] / 100 * 1e6 / 1e9)
    assert points[2:] == [(3, {"valid_nig": 2.5, "valid_ndcg": 0.25}), (3, {"valid_nig": 2.75})]


def test_between_two_lines_steps_are_added_up(capsys: pytest.CaptureFixture[str]):
    points: list[dict[str, float]] = []
    report = Report("s", 3, lambda _, metrics: points.append(metrics), 0)
    for step in (1, 2, 3):
        report.step(step, METRICS, tokens=100, flops=1e6)
        assert (report.tokens, len(points)) == ((100 * step, 0) if step < 3 else (0, 1))
    assert "mfu" not in points[0] and "MFU" not in lines_of(capsys)[0]


def test_a_quiet_report_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(telemetry, "REPORT_SECONDS", 0.0)
    points: list[int] = []
    report = Report("s", 3, lambda step, _: points.append(step), 0, quiet=True)
    report.step(3, METRICS, 100, 1e6)
    report.validation(3, {"nig": 2.5}, better=True)
    report.line("something")
    report.close()
    assert lines_of(capsys) == [] and points == []


BAR = """
from calrec.config import StageConfig
from calrec.report import progress
progress._DELAY_S = 0
from calrec.finetune.telemetry import Report
report = Report("stage1", 4, lambda step, metrics: None, 1)
for step in (2, 3, 4):
    report.step(step, {"loss": 3.0}, 10, 1.0)
report.validation(4, {"nig": 2.5}, better=True)
report.close()
report.line("done")
"""


def test_on_a_terminal_a_bar_stands_below_the_lines():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    run = subprocess.run([sys.executable, "-c", BAR], stdout=subprocess.PIPE, stderr=theirs, check=True, text=True)
    os.write(theirs, b"the end")
    bar = ""
    while not bar.endswith("the end"):
        bar += os.read(ours, 1 << 16).decode()
    os.close(theirs)
    os.close(ours)
    assert re.search(r"stage1:  25%.*1/4 \[.*step", bar)
    assert "validation" not in bar
    first, *rest = run.stdout.splitlines()
    assert re.fullmatch(r"stage1: step 4/4 loss 3.000 [\d,]+ tokens/s \d+\.\d GiB ETA 0 s", first)
    assert rest == ["stage1: step 4 validation nig 2.5000 nats/token (best so far)", "stage1: done"]
