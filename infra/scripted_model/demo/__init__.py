"""What the scripted model says to somebody who simply talks to it: a demo one can talk to."""
