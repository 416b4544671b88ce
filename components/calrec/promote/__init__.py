"""Metrics → the decision whether a model may be used."""
