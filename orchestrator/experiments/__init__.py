"""Whole experiments as plain functions: run, search, audit, reproduce."""
