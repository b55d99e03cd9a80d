"""Evaluation tasks for the built-in miniature, as lm-evaluation-harness reads them.

`python -m opensci_lib.evaluation.tasks` writes the data of all of them from the miniature's texts.
"""
