"""Word and subword vocabularies: a Hugging Face `tokenizers` model, trained on train, saved as tokenizer.json."""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from showtell.errors import BundleError, DataError
from showtell.paths import write_whole
from showtell.writing import AM, APART, END, PAD, SPECIAL, START, UNK, is_spaceless, join_words, shown, word_pattern

_WORD = word_pattern(r"[\p{L}\p{M}\p{N}]", r"[\p{M}]")


class Vocabulary:
    """Maps captions to token ids and back. Ids 0–3 are `<pad>`, `<start>`, `<end>`, `<unk>`."""

    pad_id, start_id, end_id, unk_id = PAD, START, END, UNK

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._subwords = tokenizer.decoder is not None
        for index, token in enumerate(SPECIAL):
            if tokenizer.token_to_id(token) != index:
                raise BundleError(
                    f"the tokenizer gives '{token}' the id {tokenizer.token_to_id(token)}, expected {index}; "
                    "train again or restore the file"
                )

    @classmethod
    def train(
        cls,
        captions: Iterable[str],
        *,
        kind: Literal["word", "bpe"] = "word",
        min_count: int = 5,
        size: int = 8000,
    ) -> Vocabulary:
        """A vocabulary of the words seen at least `min_count` times, or of `size` subwords ("bpe").

        Raises `DataError` if the vocabulary would be empty.
        """
        tokenizer = _word_tokenizer() if kind == "word" else _bpe_tokenizer()
        trainer = (
            trainers.WordLevelTrainer(special_tokens=list(SPECIAL), min_frequency=min_count, vocab_size=2**31 - 1)
            if kind == "word"
            else trainers.BpeTrainer(special_tokens=list(SPECIAL), vocab_size=size, show_progress=False)
        )
        trainer.show_progress = False
        tokenizer.train_from_iterator(captions, trainer)
        vocabulary = cls(tokenizer)
        if len(vocabulary) == len(SPECIAL):
            raise DataError(
                f"the vocabulary is empty: no word occurs {min_count} times or more in the captions of the train split; "
                "lower data.min_count or check the captions"
            )
        return vocabulary

    def with_words_of(self, captions: Iterable[str], *, min_count: int) -> Vocabulary:
        """This vocabulary, extended by the words seen at least `min_count` times in `captions`, most frequent first.

        Its own words keep their ids. A subword vocabulary stays as it is: it spells new words with what it has.
        """
        if self._subwords:
            return self
        normal, cut = self._tokenizer.normalizer.normalize_str, self._tokenizer.pre_tokenizer.pre_tokenize_str
        counts = Counter(word for caption in captions for word, _ in cut(normal(caption)))
        content = json.loads(self.to_json())
        known: dict[str, int] = content["model"]["vocab"]
        for word, count in sorted(counts.items(), key=lambda found: (-found[1], found[0])):
            if count >= min_count:
                known.setdefault(word, len(known))
        return Vocabulary.from_json(json.dumps(content))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, caption: str) -> list[int]:
        """Token ids of a caption, `<start>` first and `<end>` last."""
        return [self.start_id, *self._tokenizer.encode(caption).ids, self.end_id]

    def encode_all(self, captions: Sequence[str]) -> list[list[int]]:
        """`encode` of many captions at once."""
        encodings = self._tokenizer.encode_batch(list(captions))
        return [[self.start_id, *encoding.ids, self.end_id] for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids up to `<end>`, with spaces where its script has them and without special tokens."""
        spoken = self._spoken(ids)
        if self._subwords:
            return str(self._tokenizer.decode(spoken, skip_special_tokens=True))
        return join_words([str(self._tokenizer.id_to_token(i)) for i in spoken])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids up to `<end>`, one by one, as people see them."""
        return [shown(str(self._tokenizer.id_to_token(i))) for i in self._spoken(ids)]

    def phrase(self, text: str) -> tuple[int, ...]:
        """The ids of words that a caption must, or must not, contain.

        `DataError`, naming similar words, for an unknown one; where a character that no word has, such as the comma of
        "dog,cat", is between two (subword vocabularies have commas); and for subwords of a script without spaces, where
        the same characters are not always split alike.
        """
        ids = tuple(self._tokenizer.encode(text).ids)
        if not text.strip() or text.strip() in SPECIAL:
            raise DataError(f"'{text}' is no word; name one or more that a caption may hold, as in 'red dog'")
        if left := self._dropped(text):
            raise DataError(
                f"'{text}' has {left}, which no word has; name a word, or words that follow each other, as in 'red dog'"
            )
        if ids and min(ids) >= len(SPECIAL):  # special tokens cannot be asked for
            if self._subwords and is_spaceless(text):
                raise DataError(
                    f"'{text}' cannot be asked for or ruled out: the captioner's subwords do not tell words of a script without spaces apart; "
                    'expected a captioner trained with data.vocabulary = "word"'
                )
            return ids
        known = self.listed()[len(SPECIAL) :]
        near = difflib.get_close_matches(text.strip().lower(), [t.replace("▁", "") for t in known], n=3, cutoff=0.5)
        hint = f"near it are {', '.join(sorted(set(near), key=near.index))}" if near else f"it has {len(known)} words"
        raise DataError(f"the captioner's vocabulary does not have '{text}'; {hint}")

    @functools.cached_property
    def continuing(self) -> tuple[int, ...]:
        """The subwords that go on with the word before them, such as "house" in "doghouse"; none where tokens are words."""
        tokens = self.listed() if self._subwords else []
        return tuple(i for i, token in enumerate(tokens) if i >= len(SPECIAL) and _goes_on(token[0]))

    def _dropped(self, text: str) -> str:
        """The first character, other than a space, that separates two tokens, as errors name it; empty if there is none."""
        normal = self._tokenizer.normalizer.normalize_str(text)
        kept = {
            i for _, (begin, end) in self._tokenizer.pre_tokenizer.pre_tokenize_str(normal) for i in range(begin, end)
        }
        for begin, end in itertools.pairwise(sorted(kept)):
            between = normal[begin + 1 : end]
            if between and not any(map(str.isspace, between)):
                return f"a '{between[0]}'" if between[0].isprintable() else f"the invisible U+{ord(between[0]):04X}"
        return ""

    def listed(self) -> list[str]:
        """All tokens, in order of their ids."""
        return [str(self._tokenizer.id_to_token(i)) for i in range(len(self))]

    def differs_from(self, other: Vocabulary) -> str:
        """How its tokens differ from those of `other`, for an error; empty if they are the same with the same ids."""
        own, theirs = self.listed(), other.listed()
        if own == theirs:
            return ""
        return f"{len(own)} and {len(theirs)}" if len(own) != len(theirs) else "as many, but not the same"

    def fingerprint(self) -> str:
        """A hash of all tokens and their order."""
        return hashlib.sha256(json.dumps(self.listed()).encode()).hexdigest()

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that the vocabulary does not have, each once."""
        encoding = self._tokenizer.encode(text)
        offsets = [span for span, i in zip(encoding.offsets, encoding.ids, strict=True) if i == self.unk_id]
        return list(dict.fromkeys(text[begin:end] for begin, end in offsets))

    def unknown_rate(self, captions: Iterable[str]) -> float:
        """The share, 0 … 1, of words in `captions` that the vocabulary does not have."""
        ids = [i for encoding in self._tokenizer.encode_batch(list(captions)) for i in encoding.ids]
        return ids.count(self.unk_id) / max(1, len(ids))

    def to_json(self) -> str:
        """The whole tokenizer as the JSON text that `from_json` reads."""
        return str(self._tokenizer.to_str(pretty=True))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """The vocabulary in `text`; `BundleError` if it is none."""
        try:
            return cls(Tokenizer.from_str(text))
        except BundleError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"not a tokenizer.json: {error}; train again or restore the file") from None

    def save(self, path: Path) -> None:
        """Writes tokenizer.json, whole or not at all."""
        write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads tokenizer.json; `BundleError` where it is missing or broken."""
        if not path.is_file():
            raise BundleError(f"no {path.name} in {path.parent}: expected a bundle with its vocabulary")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise BundleError(f"{path}: not a tokenizer.json: {error}; train again or restore the file") from None
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None

    def _spoken(self, ids: Iterable[int]) -> list[int]:
        spoken: list[int] = []
        for i in ids:
            if i == self.end_id:
                break
            if i > self.unk_id:
                spoken.append(int(i))
        return spoken


def _goes_on(character: str) -> bool:
    """Whether a word may go on with it: letters, marks and digits; apostrophes, hyphens and joiners, as in "man's"."""
    return (unicodedata.category(character)[0] in "LMN" or character in "'’-\u2010\u200c\u200d") and not is_spaceless(
        character
    )


def _normal() -> list[normalizers.Normalizer]:
    """NFKC, except for the vowel "am", and lower case."""
    return [normalizers.NFKC(), normalizers.Lowercase(), *(normalizers.Replace(two, one) for two, one in AM)]


def _word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([*_normal(), normalizers.Replace(Regex(APART), "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    return tokenizer


def _bpe_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(_normal())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
