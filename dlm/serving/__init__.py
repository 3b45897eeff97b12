"""``dlm serve``: an OpenAI-compatible server whose requests share batches, and the page that shows them."""
