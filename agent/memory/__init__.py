"""What the agent remembers: sessions, their transcripts, and how a history becomes one."""
