"""CALRec: two-stage contrastive fine-tuning of a generative LLM for text-based sequential recommendation."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`calrec.CALRec`, loaded when it is asked for, so that `import calrec` takes milliseconds."""
    if name == "CALRec":
        return importlib.import_module("calrec.api.model").CALRec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
