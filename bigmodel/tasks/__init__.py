"""Tasks: how a batch becomes model inputs and additive metrics. They know no optimizer."""
