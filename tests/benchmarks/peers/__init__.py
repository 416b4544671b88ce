"""Other people's sequential models on our split: `make peers` makes the environment, `python -m` runs them.

`calrec evaluate --rankings sasrec=FILE` judges the lists. Nothing here imports calrec: the libraries want other versions
of numpy than it does.
"""
