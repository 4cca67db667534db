"""Bytes to values and back. No input or output, no clock, no state."""
