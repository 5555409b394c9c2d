"""Training: the fast loop, the plain reference, and prediction."""
