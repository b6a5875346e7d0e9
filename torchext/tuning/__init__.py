"""Measures the routing table: a machine's by `python -m torchext tune`, a model's by torchext.tune(model, *example)."""
