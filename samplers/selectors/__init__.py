"""Which eligible positions are committed."""
