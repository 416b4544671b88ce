"""Rankings → metrics against the floors, and a report."""
