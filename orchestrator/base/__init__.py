"""What every room may use: errors, files, text, provenance and processes. Imports nothing of ours."""
