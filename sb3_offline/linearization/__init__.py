"""A Q-function to first order: gradients, kernels, TD linearisation, and the update rules made of them. Imports networks."""
