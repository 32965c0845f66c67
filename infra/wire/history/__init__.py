"""Which memory the next turn continues, from what the client sent. Pure."""
