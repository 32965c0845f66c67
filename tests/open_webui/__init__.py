"""Open WebUI itself, looked at in headless Chromium.

Only `make test-clients` collects this folder: Open WebUI gets an environment of its own, because it
is large and pins what we do not.
"""
