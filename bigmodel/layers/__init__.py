"""Layers: pure functions and small linen modules that know no config and no mesh."""
