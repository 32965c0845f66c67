"""Seeded random walks over a chat page, with the page as the oracle of the agent's memory."""
