"""Where a host keeps a conversation's files: made, measured, removed."""
