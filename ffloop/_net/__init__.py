"""Sockets of the stack, kernel sockets that are promoted or inherited, and readiness."""
