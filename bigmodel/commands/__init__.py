"""Commands of launch.py, one module each with `run(args)`."""
