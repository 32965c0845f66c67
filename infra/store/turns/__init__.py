"""Turns: submitted, claimed, logged, followed and ended."""
