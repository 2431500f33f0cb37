"""Weights of a finished run for other tools, with a model card."""
