"""Triton kernels, one file per op; imported as torchext.kernels."""
