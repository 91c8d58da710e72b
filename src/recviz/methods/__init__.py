"""Pretraining methods as LightningModules: joint_embedding holds the training loop that all share."""
