"""What every room may use: errors, files, text, provenance, processes. It imports nothing of
ours."""
