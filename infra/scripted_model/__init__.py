"""A scripted stand-in for the Messages API, behind `--demo` and the tests."""
