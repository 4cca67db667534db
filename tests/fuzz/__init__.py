"""Hostile bytes: one table of targets, run shortly by pytest and at length by `make fuzz`."""
