"""Prompts → sampled item texts with their log-probabilities."""
