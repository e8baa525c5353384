"""What each head does: analyses of all heads of an index, kept beside it as tables."""
