"""Triton kernels, one file per family of ops. Each is tested against its op's reference: see docs/kernels.md."""
