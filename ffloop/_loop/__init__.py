"""The event loop: its selector, transports, listeners and sock_ calls."""
