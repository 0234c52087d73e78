"""Models: the slot tables, and the backbone and heads that layers are assembled into."""
