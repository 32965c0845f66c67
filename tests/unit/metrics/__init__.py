"""What the programs count."""
