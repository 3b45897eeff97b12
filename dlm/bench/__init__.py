"""Measurements: seconds inside and outside the forward, memory, and how near the machine's limit that is."""
