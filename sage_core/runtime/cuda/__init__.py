"""CUDA execution."""
