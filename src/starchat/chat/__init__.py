"""Dialogues: messages to token ids, tools, and a reply's text to tool calls."""
