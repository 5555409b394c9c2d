"""Inputs from the field that once failed, and what guards each of them."""
