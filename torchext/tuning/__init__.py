"""Measures the routing table: of a machine by `python -m torchext tune`, of a model by torchext.tune(model, *example)."""
