"""Two small tokenizers of the kinds that occur: byte-level BPE, and metaspace BPE with byte fallback."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog. It's 12:30, isn't it?",
    "def add(a, b):\n    return a + b\n",
    "naïve café, Größe, żółć, ελληνικά, русский текст",
    "你好，世界！これは日本語です。한국어도 있어요.",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 👍🏽 thumb 😀😀😀",
    "مرحبا بالعالم שלום e\u0301 n\u0303",
]
SPECIAL = ["<|start|>", "<|end|>"]


@cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", special=False), AddedToken("é!", special=False)])
    return tokenizer


@cache
def byte_fallback() -> Tokenizer:
    pieces = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁a", "a", "b", "▁the", "he", "t", "x", "▁▁", "中", "�", "ab"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
