"""Models by their names: what is on a hub of Hugging Face becomes a path on this machine."""
