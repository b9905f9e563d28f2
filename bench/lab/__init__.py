"""The parts of `bench/targets`."""
