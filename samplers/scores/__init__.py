"""How sure the model is of each proposal."""
