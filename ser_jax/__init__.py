"""Speech emotion recognition in JAX: does attention help, which, and by how much."""
