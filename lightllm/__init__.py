"""LightLLM: an inference and serving engine for large language models."""
