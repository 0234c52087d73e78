"""Inference: text from a model."""
