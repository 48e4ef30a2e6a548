#!/usr/bin/env bash
# tokenizers: a BPE without an unknown token leaves out characters that it was not trained on, so later action codes move up
#
# Versions: tokenizers 0.23.3
# Guess: A character that training did not have is an error, or becomes a token for the unknown, as in WordPiece, which raises.
# Fact: BPE drops it, and merges what was left and right of it. FAST's action tokens are such a BPE, over characters that stand for rounded
#   coefficients: one coefficient that was not in the training data is gone, all behind it are a place too early, and the
#   decoded chunk lacks one number. BpeTrainer(initial_alphabet=...) with all that may come avoids it.
# Output: trained on a, b, c: "abZca" is encoded as ab, c, a and decoded as "abca"; WordPiece raises; with initial_alphabet "abZca" comes back
# Needs: Python 3.12 or newer (PYTHON=), 40 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 h11==0.16.0 hf-xet==1.8.0 \
    httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 packaging==26.4 pyyaml==6.0.4 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
from tokenizers import Tokenizer, decoders, models, trainers


def through(text, model, trainer):
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator(["abcabcab"] * 10, trainer)
    try:
        found = tokenizer.encode(text)
    except Exception as error:  # the library raises this class itself
        return type(error).__name__
    return found.tokens, tokenizer.decode(found.ids)


default = through("abZca", models.BPE(), trainers.BpeTrainer(vocab_size=20, show_progress=False))
known = through("abZca", models.BPE(), trainers.BpeTrainer(vocab_size=20, initial_alphabet=["Z"], show_progress=False))
piece = through("abZca", models.WordPiece(), trainers.WordPieceTrainer(vocab_size=20, show_progress=False))
print("BPE", default, "with initial_alphabet", known, "WordPiece", piece)
assert default[1] == "abca" and len(default[1]) == 4
assert known[1] == "abZca"
assert piece == "Exception"
PY
