"""Constraints: what an answer must be."""
