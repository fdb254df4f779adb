"""The command ffloop."""
