"""Constrained decoding: what a reply may say, as a grammar."""
