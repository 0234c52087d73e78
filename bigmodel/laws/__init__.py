"""Scaling laws: loss by parameters and tokens, and the size that a budget is best for."""
