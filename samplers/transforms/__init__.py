"""Logits to logits."""
