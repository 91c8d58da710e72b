"""Pretraining methods as LightningModules. joint_embedding.py holds the training loop that all share."""
