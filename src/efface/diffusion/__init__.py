"""Noise, the denoiser, trajectories and inversion."""
