"""Projected-Gradient Unlearning."""
