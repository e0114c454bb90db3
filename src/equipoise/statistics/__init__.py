"""Elementwise functions of statistics of rows of logits."""
