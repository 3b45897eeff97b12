"""Which span of a row may be filled now."""
