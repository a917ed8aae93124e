"""`specop`, also as a kubectl plugin."""
