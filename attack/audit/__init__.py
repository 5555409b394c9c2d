"""All attacks on one table of outputs, and what their numbers mean."""
