"""Files of a conversation: brought in, kept, and held to their limit."""
