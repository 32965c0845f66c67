"""Turns: asked for, claimed, logged, followed and ended."""
