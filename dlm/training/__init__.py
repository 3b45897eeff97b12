"""Training: the masked-diffusion objective, the data of the tiny model, and the trainer."""
