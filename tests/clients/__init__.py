"""The client libraries that programs use, unchanged, against whole deployments.

Only `make test-clients` collects this folder: it makes an environment of its own for the libraries,
because they pin what we do not.
"""
