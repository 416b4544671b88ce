"""What is timed: for each step our path, its reference, and a sentence; both paths must agree before they are timed."""

from collections.abc import Callable
from typing import Any

from tests.benchmarks.bm25 import bm25
from tests.benchmarks.evaluate import evaluate
from tests.benchmarks.generate import generate
from tests.benchmarks.gradcache import gradcache
from tests.benchmarks.ingest import ingest
from tests.benchmarks.kcore import kcore
from tests.benchmarks.machine import busy, memory
from tests.benchmarks.pipeline import pipeline
from tests.benchmarks.serve import serve
from tests.benchmarks.tokens import tokens
from tests.benchmarks.train import train
from tests.benchmarks.trie import trie

Benchmark = tuple[Callable[[], Any], Callable[[], Any], str]

STEPS: dict[str, Callable[[], Benchmark | dict[str, Any]]] = {
    "ingest": ingest,
    "kcore": kcore,
    "tokens": tokens,
    "train": train,
    "gradcache": gradcache,
    "busy": busy,
    "memory": memory,
    "generate": generate,
    "bm25": bm25,
    "trie": trie,
    "evaluate": evaluate,
    "pipeline": pipeline,
    "serve": serve,
}
"""Step → its paths to be timed in turns, or a function that measures by itself and gives the figures."""
