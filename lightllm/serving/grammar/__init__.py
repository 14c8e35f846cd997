"""Structured output: grammars are compiled and masks of allowed tokens computed here, in the process `grammar`."""
