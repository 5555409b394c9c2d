"""Inputs drawn at random: whatever a user gives, a command ends in order."""
