"""A recipe and its data become units, each with the hash of all that it depends on. Runs
nothing."""
