"""What the programs count and time, for Prometheus, and how each of them shows it."""
