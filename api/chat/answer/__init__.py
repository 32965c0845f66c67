"""A turn's events as an answer of the chat dialect, streamed or whole."""
