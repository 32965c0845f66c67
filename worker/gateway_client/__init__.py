"""The worker's side of the gateway's control socket."""
