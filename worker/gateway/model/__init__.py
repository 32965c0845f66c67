"""Access to the model's service: `model.sock`, and the side calls of workers."""
