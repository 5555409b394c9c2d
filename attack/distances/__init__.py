"""Distances between unlearned and retrained models."""
