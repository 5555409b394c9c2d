"""Fresh virtual environments: a user's install, and what a first run in it does."""
