"""The packaged model's benchmark: its points, the paper's claims, the document."""
