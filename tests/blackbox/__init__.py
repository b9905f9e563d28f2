"""Black-box tests: a real service over its wire, nothing else."""
