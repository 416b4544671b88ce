"""Benchmarks: each times a step against its reference path, which is also the test oracle."""
