"""The version, for pyproject.toml and for `ffloop --version`."""

__version__ = "0.2.0"
