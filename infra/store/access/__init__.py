"""Who may ask, how much, and what that used."""
