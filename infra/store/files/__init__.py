"""Files on record: whose they are, how long they stay, and what a tenant may keep."""
