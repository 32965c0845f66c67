"""The folders in which a host keeps a conversation's files: created, measured, removed."""
