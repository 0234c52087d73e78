"""Training: state, step, optimizers, checkpoints, writers, evaluation and the loop."""
