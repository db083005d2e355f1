"""A Gaussian variational autoencoder."""
