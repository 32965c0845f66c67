"""Conversations: their records, who owns them, and what an agent remembers of them."""
