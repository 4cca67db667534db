"""Judging evidence, offline: what is well-formed comes from ``wire``, what is genuine and wanted is decided here."""
