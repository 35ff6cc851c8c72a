"""Fitting weights to examples with trl's trainers: the loop under `finetune`, `student` and the trials of a search.

`training.fit.fit.fit` is the entrance; it and the modules that import torch are imported by stages, inside functions.
"""
