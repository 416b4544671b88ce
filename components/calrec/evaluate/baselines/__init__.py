"""What a model must beat, under the same users, split and filters."""
