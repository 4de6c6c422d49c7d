"""Rows and windows for many envs, out of an archive or a store. No framework."""
