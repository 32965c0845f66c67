"""What waits, which workers live, and where a turn goes."""
