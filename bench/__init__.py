"""Benchmarks: bench_<op>.py holds an op's sizes, providers and cost, models/ whole networks; the rest measures them."""
