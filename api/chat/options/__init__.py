"""What a chat request asks of its own turn, each option with a reader of its own."""
