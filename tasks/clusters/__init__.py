"""Tasks mapped over pieces of work: in this process, or on the workers of a Dask or Ray cluster.

Not what the pieces are. Paths and small manifests travel, never tensors. From outside: every module.
"""
