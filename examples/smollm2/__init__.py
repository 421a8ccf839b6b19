"""SmolLM2-135M-Instruct from PyPI: see README.md."""
