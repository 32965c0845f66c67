"""What callers see of their conversations, and how they stop and delete them."""
