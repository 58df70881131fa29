"""A search for good settings of any recipe: optuna decides, each trial is a run folder of its own.

`space` reads what may vary, `process` runs one trial and watches its metrics, `study` asks and tells optuna, `report`
says what was found.
"""
