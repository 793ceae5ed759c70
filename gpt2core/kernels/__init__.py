"""Code in C for processors that PyTorch serves badly, compiled on first use, and the Python that calls it.

Not for anything that has no plain PyTorch way beside it: without a compiler everything works, only slower. From outside:
`c_library`, `causal_attention`, `matmul`, `training_kernels`, `inference`.
"""
