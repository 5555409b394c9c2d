"""The prose check: short sentences and short lines wherever people read."""
