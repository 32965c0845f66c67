"""The container of a conversation: its parts, its link, its start, and its end."""
