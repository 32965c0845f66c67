"""The messages of a chat request: what an agent is given of them."""
