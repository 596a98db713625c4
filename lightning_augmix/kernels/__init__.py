"""Everything that Numba compiles, and the tables it reads."""
