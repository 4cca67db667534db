"""Inference behind one protocol (:mod:`confide.engine.base`)."""
