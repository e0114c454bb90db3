"""Kernels that compute losses of rows of logits and their gradients."""
