"""What a run writes down about itself: events, logs, heartbeats, checksums and MLflow runs."""
