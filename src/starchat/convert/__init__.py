"""Model files that starchat writes."""
