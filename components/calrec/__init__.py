"""CALRec: two-stage contrastive fine-tuning of a generative LLM for text-based sequential recommendation."""

__version__ = "0.1.0"
