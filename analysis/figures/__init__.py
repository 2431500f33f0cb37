"""Figures: one look, one file for each kind."""
