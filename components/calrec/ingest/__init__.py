"""Raw logs → interactions, items, rejects."""
