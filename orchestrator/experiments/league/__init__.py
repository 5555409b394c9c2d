"""A league: methods tuned with equal budgets, measured on models that no tuning saw, and ranked."""
