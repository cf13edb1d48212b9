"""Policies and what a loss may ask of them. Imports execution."""
