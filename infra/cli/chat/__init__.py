"""`agcluster chat`: a client in the terminal, over the API as any other."""
