"""Committing everything that is left at once."""
