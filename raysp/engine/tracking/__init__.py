"""What a sweep tells to trackers that people have: MLflow, W&B, TensorBoard."""
