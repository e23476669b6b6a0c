"""The text tower of InternVideo2 stage-2: the text-only layers of its BERT, and its WordPiece tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdst.errors import UserError
from sdst.files.text import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.features.backbone.sizes import TextConfig

logger = logging.getLogger(__name__)

NOT_INSTALLED = "the text tower needs transformers, which is not installed: pip install 'sdst[extract]'"


class Tokenizer:
    """Lower-casing WordPiece tokenizer of BERT.

    Args:
        vocab: The model's ``vocab.txt``, one word piece per line.
        config: Sizes of the tower. Sentences with more tokens than it has positions are cut, with a warning.

    Raises:
        UserError: The file is missing, is not a vocabulary, or belongs to another model.
    """

    def __init__(self, vocab: str | Path, config: TextConfig) -> None:
        try:
            from tokenizers import BertWordPieceTokenizer
        except ImportError as error:
            raise UserError(NOT_INSTALLED) from error
        ids = _read_vocab(Path(vocab), config.vocab_size)
        self._max_tokens = config.max_position_embeddings
        self._tokenizer = BertWordPieceTokenizer(ids, lowercase=True)
        self._tokenizer.enable_truncation(self._max_tokens)
        self._tokenizer.enable_padding(pad_id=ids["[PAD]"])

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(N, L) int64 token ids, CLS first and SEP after the last word, and their (N, L) bool mask."""
        encodings = self._tokenizer.encode_batch(list(sentences))
        for sentence, encoding in zip(sentences, encodings, strict=True):
            if encoding.overflowing:
                logger.warning("query cut to %d tokens: %.60s...", self._max_tokens, sentence)
        input_ids = torch.tensor([encoding.ids for encoding in encodings])
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        return input_ids, mask

    def unknown_words(self, sentence: str) -> tuple[str, ...]:
        """Words of a sentence that the vocabulary has neither whole nor in pieces, lower-cased, without punctuation."""
        encoding = self._tokenizer.encode(sentence)
        unknown = [
            sentence[slice(*place)].lower()
            for piece, place in zip(encoding.tokens, encoding.offsets, strict=True)
            if piece == "[UNK]"
        ]
        return tuple(dict.fromkeys(word for word in unknown if any(map(str.isalnum, word))))


class TextTower(nn.Module):
    """BERT without its pooler and without the fusion layers above its text-only layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        try:
            from transformers import BertConfig, BertModel
        except ImportError as error:
            raise UserError(NOT_INSTALLED) from error
        self.num_layers = config.fusion_layer
        bert_config = BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            num_hidden_layers=config.fusion_layer,
            max_position_embeddings=config.max_position_embeddings,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.bert = BertModel(bert_config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """Token states after the given layers.

        Args:
            input_ids: (N, L) token ids.
            mask: (N, L) bool, true where valid.
            layers: Layer numbers; n is the state after the n-th layer, 0 the state of the embeddings.

        Returns:
            (N, L, n_layers, Dt) float32 in the order of ``layers``; meaningless where padded.

        Raises:
            UserError: A layer does not exist or is not a text-only layer.
        """
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise UserError(f"text layer {layer} does not exist; choose from 1 to {self.num_layers}")
        # Positions and types are passed because BERT's own buffers have no values in a tower built on "meta".
        out = self.bert(
            input_ids,
            attention_mask=mask.long(),
            token_type_ids=torch.zeros_like(input_ids),
            position_ids=torch.arange(input_ids.shape[1], device=input_ids.device)[None],
            output_hidden_states=True,
        )
        return torch.stack([out.hidden_states[layer] for layer in layers], dim=2).float()


def _read_vocab(path: Path, size: int) -> dict[str, int]:
    words = read_text(path).rstrip("\n").split("\n")
    ids = {word: number for number, word in enumerate(words)}
    lacking = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token not in ids]
    if lacking:
        raise UserError(
            f"{path}: not a WordPiece vocabulary, lacks {', '.join(lacking)}; give the model's vocab.txt"
        )
    if len(ids) != size:
        raise UserError(
            f"{path}: has {len(ids)} different words, the text tower needs {size}; give the model's vocab.txt"
        )
    return ids
