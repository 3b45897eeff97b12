"""Fidelity check: recorded runs of the reference implementations against this package."""
