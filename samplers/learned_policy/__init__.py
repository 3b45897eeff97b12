"""A learned unmasking policy (after arXiv 2512.09106): a small transformer says what is committed now."""
