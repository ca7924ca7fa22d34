"""Speech emotion recognition in JAX: does attention help, which, and by how much."""

__version__ = "0.2.0"
