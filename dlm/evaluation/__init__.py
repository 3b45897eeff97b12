"""Evaluation: samplers side by side on the same held-out questions."""
