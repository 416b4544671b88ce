"""Rankings → metrics against the baselines, and a report."""
