"""Scaling laws: loss by parameters and tokens, fitted to runs, and what it advises."""
