"""The container image: its recipe, what is in it, and how it runs under a real Docker daemon."""
