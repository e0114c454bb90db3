"""Kernels that compute the losses of rows of logits and their gradient."""
