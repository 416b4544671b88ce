"""Model, index and histories → ranked real items for every user, in a batch."""
