"""Agents that a conversation's agent calls: each call is a turn of another conversation."""
