"""Disturbs real runs in every way that is known to happen, and checks that nothing is lost: `python -m tests.chaos`."""
