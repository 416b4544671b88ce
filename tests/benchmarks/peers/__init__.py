"""Other recommenders on our split: `make peers` makes the environment.

`calrec evaluate --rankings sasrec=FILE` judges the lists. Nothing here imports calrec, as the libraries want another
numpy than it does.
"""
