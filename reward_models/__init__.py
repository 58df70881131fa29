"""Reward functions that ship with rlgen: plain Python with TRL's signature, one module per task."""
