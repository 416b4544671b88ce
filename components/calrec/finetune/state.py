"""Checkpoints of an interrupted stage: written aside and renamed, so that there is always a whole one."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass
class Progress:
    """The small explicit part of the trainer's state."""

    step: int = 0
    """Steps done; the order of the rows is a function of the configuration, so this is the data position too."""
    best_step: int = 0
    best_nig: float = float("inf")
    worse: int = 0
    """Validations since the best one."""


def trainable_weights(network: Any) -> dict[str, Tensor]:
    """The weights that training changes, each once when tied."""
    return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def copy_into(network: Any, weights: dict[str, Tensor]) -> None:
    """Put saved weights into the network."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])


class Checkpoints:
    """One folder that holds the newest checkpoint of a stage and the best weights so far."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder
        self.fingerprint = fingerprint
        """Hash of configuration and inputs: a checkpoint of another run is never continued."""

    def write(self, network: Any, optimizer: Any, progress: Progress) -> None:
        """Save everything that the next step depends on."""
        part = self.folder / "newest.partial"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in trainable_weights(network).items()}, part / "weights.safetensors")
        torch.save({"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, part / "optimizer.pt")
        (part / "state.json").write_text(json.dumps({"fingerprint": self.fingerprint, **asdict(progress)}))
        newest, old = self.folder / "newest", self.folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        if newest.exists():
            newest.rename(old)
        part.rename(newest)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self, network: Any, optimizer: Any) -> Progress:
        """Load the newest checkpoint of this very run; without one, start at step 0."""
        for name in ("newest", "old"):
            folder = self.folder / name
            if not (folder / "state.json").is_file():
                continue
            state = json.loads((folder / "state.json").read_text())
            if state.pop("fingerprint") != self.fingerprint:
                print(f"checkpoint {folder} is of another configuration or input; starting anew", flush=True)
                break
            copy_into(network, load_file(folder / "weights.safetensors"))
            saved = torch.load(folder / "optimizer.pt", weights_only=True)
            optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["rng"])
            print(f"continuing after step {state['step']} from {folder}", flush=True)
            return Progress(**state)
        shutil.rmtree(self.folder, ignore_errors=True)
        return Progress()

    def write_best(self, network: Any) -> None:
        """Keep the present weights as the best so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "best.partial"
        save_file({k: v.contiguous() for k, v in trainable_weights(network).items()}, part)
        part.rename(self.folder / "best.safetensors")

    def load_best(self, network: Any) -> None:
        """Put the best weights back."""
        copy_into(network, load_file(self.folder / "best.safetensors"))

    def remove(self) -> None:
        """The stage is done and its model is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
