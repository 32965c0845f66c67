"""The side lane: one model call without an agent."""
