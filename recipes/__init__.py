"""The recipes: one linear script per job, run as `rlgen NAME` or as `python recipes/NAME.py`."""
