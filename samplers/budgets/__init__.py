"""How many positions a step commits."""
