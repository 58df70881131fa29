"""Compare checkpoints on held-out prompts: generate, measure, test, report."""
