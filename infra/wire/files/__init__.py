"""What files are and how they are named. Pure."""
