"""When a row is finished before its canvas is full."""
