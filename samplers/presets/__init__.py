"""Samplers by the names of their papers: bundles of parts with the published defaults."""
