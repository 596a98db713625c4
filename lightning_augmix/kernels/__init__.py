"""All that Numba compiles, and the numbers it reads."""
