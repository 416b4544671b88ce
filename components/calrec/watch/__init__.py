"""What is new to train on, and which models are in use."""
