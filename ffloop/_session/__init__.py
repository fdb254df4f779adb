"""The session with an instance: the C calls, whose a socket is, where instances are, settings."""
