"""Benchmarks: one file of shapes and providers per op; `python -m bench` prints them all as one table."""
