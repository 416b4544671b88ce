"""Interactions and items → item texts, token ids, sequences with their split."""
