"""What all programs share: the contract, the store, the plumbing, the command line."""
