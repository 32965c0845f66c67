"""Real clients of other languages, each driven through a small program of its own."""
