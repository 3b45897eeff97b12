"""Learn2PD (arXiv 2509.25188): a small network decides which proposals are final."""
