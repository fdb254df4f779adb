"""The version, for pyproject.toml and for `ffloop --version`."""

__version__ = "0.1.0"
