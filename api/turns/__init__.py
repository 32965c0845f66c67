"""Turns, free of any dialect: opened, followed, repeated, given up."""
