"""Trajectory optimisation results: their loader, and reference windows for Digit."""
