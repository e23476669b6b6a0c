"""Sparse-Dense Side-Tuner for video temporal grounding (ICCV 2025)."""

__version__ = "0.1.0"
