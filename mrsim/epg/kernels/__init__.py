"""Fused kernels that walk a plan with the states of few spins in the first cache."""
