"""Statistics of rows of logits."""
