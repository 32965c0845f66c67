"""Where a host keeps a conversation's files: made, measured and removed, whatever their agent does."""
