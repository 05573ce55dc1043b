"""The engine on a CUDA device: a cache of blocks, kernels in Triton, decode steps by CUDA graph.

Everything here also runs on a CPU, the kernels under Triton's interpreter, so that it can be tested there.
"""
