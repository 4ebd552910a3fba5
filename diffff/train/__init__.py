"""Training: from input.json and labelled frames to a checkpoint."""
