"""What a run does without a part."""


class NotHere(Exception):
    """Something this machine cannot start; the message says what is missing."""
