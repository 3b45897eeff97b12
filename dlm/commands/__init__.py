"""The commands of ``dlm``: each a function from overrides to an exit status."""
