"""The lines between a worker and an agent."""
