"""The figures of a report, drawn from results alone."""
