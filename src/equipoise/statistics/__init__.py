"""Statistics of rows of logits: a few numbers per row, of which nearly every loss is made."""
