"""Jengo."""
