"""Changes to the scores."""
