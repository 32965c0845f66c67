"""Keys, limits and usage: who may send requests, how many, and what they used."""
