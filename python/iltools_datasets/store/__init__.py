"""The store: opened, built, checked; its keys, segments and env cursors. No framework."""
