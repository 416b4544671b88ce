"""Losses and trainer; one component serves stage 1 and stage 2."""
