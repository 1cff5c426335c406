"""Programs that measure this product against the bare commands, and against its own promises.

Each is run by hand (``python -m benchmarks.overhead``) and prints its result; the last proper
results are in docs/reference/benchmarks.md.
"""
