"""Text: what users are told, and how text from others is cut and made safe. Pure."""
