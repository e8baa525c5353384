"""Comparison: what changed between a base checkpoint and tuned ones."""
