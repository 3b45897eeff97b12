"""The cheapest setting at a stated quality: a search that may be clever, and a promise that does not depend on it."""
