"""The model's service: its words, its efforts, and why it does not answer."""
