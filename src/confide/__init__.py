"""Chat completions that people can check."""

__version__ = "0.1.0"
