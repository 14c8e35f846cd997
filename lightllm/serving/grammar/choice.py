"""What enforces grammars, and whether anything can for this checkpoint."""

from pathlib import Path

from lightllm.base.checkpoint_files import eos_ids, read_json, vocab_size
from lightllm.base.config import EngineConfig
from lightllm.serving.grammar.engine import Engine
from lightllm.serving.text.tokenizer import load_tokenizer


def why_not(config: EngineConfig) -> str | None:
    """Why no grammar is enforced with these settings."""
    if config.output_constraint_mode == "none":
        return "this server runs with --output_constraint_mode=none"
    if config.tokenizer_mode == "none":
        return "this server runs with --tokenizer_mode=none, and grammars are about text"
    if not _ends(config):
        return "the checkpoint names no token that ends an answer (eos_token_id, --eos_id)"
    return None


def load(config: EngineConfig) -> Engine:
    """The engine, for the checkpoint's tokenizer. Raises ConfigError."""
    vocab = vocab_size(read_json(config.model_dir, "config.json", required=True))
    tokenizer = load_tokenizer(config)
    assert tokenizer is not None, "why_not was asked"
    added = tokenizer.get_added_tokens_decoder()
    if config.output_constraint_mode == "xgrammar":
        from lightllm.serving.grammar.xgrammar_engine import XgrammarEngine

        special = {about.content: token for token, about in added.items() if about.special or _is_mark(about.content)}
        return XgrammarEngine(tokenizer, vocab=vocab, eos_ids=_ends(config), special_tokens=special)
    from lightllm.serving.grammar.llguidance_engine import LlguidanceEngine

    source = (Path(config.model_dir) / "tokenizer.json").read_text(encoding="utf-8")
    names = {about.content: token for token, about in added.items()}
    return LlguidanceEngine(source, vocab=vocab, eos_ids=_ends(config), added_tokens=names)


def _is_mark(name: str) -> bool:
    """Whether a token that is not said to be special is one all the same: llguidance sees it so, too."""
    return name.startswith("<") and name.endswith(">")


def _ends(config: EngineConfig) -> list[int]:
    checkpoint = read_json(config.model_dir, "config.json", required=True)
    return config.eos_id or eos_ids(checkpoint, read_json(config.model_dir, "generation_config.json", required=False))
