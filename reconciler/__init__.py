"""llamactl: one YAML file that runs your LLM servers."""

__version__ = "0.1.0"
