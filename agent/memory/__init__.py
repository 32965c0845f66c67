"""What the agent remembers: sessions, their transcripts, and how one is made from a history."""
