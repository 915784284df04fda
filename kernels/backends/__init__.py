"""Implementations of the kernels: PyTorch, Triton, and a plain float64 reference."""
