"""Callbacks that observe a training and change nothing of it."""
