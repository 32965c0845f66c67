"""Turns, independent of any dialect: opening, following, repeating and abandoning them."""
