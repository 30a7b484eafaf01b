r"""Microscopic real models: byte-level tokenizers and two-layer Llamas, the same for the same seed.

They know nothing and say nothing sensible; what they have in common with real ones is every file,
class and code path.

    PYTHONPATH=tests:scripts python -c \
        "import micro_models as m; m.make_teacher(m.Path('t'), ['some text'], seed=0)"
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from micro_training import ASSISTANT, BOS, CHAT_TEMPLATE, EOS, PAD, SPECIAL, SYSTEM, USER

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCABULARY = 400
WINDOW = 1024
ENCODERS = ("Bert", "XLMRoberta", "ModernBert")
DECODERS_ALONE = ("num_key_value_heads", "head_dim", "tie_word_embeddings")


def make_teacher(
    folder: Path, texts: Sequence[str], seed: int, special: Sequence[str] = (), **shape: int
) -> Path:
    """Saves a causal language model whose greedy answers vary and sometimes end by themselves; it
    makes the further special tokens as often."""
    tokenizer = make_tokenizer(folder, texts, special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**_shape(tokenizer, **shape)))
    _enliven(model)
    with torch.no_grad():
        # A longer row is the largest logit more often: so answers end, at different lengths.
        for token in (tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids([*special])):
            model.lm_head.weight[token].mul_(1.5)
        for token in (PAD, BOS, SYSTEM, USER, ASSISTANT):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(token)].zero_()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    return _save(model, folder)


def make_arbiter(
    folder: Path,
    texts: Sequence[str],
    seed: int,
    kind: str = "Llama",
    num_labels: int = 1,
    **shape: int,
) -> Path:
    """Saves a reward model of an architecture of transformers; its scores differ between texts."""
    tokenizer = make_tokenizer(folder, texts)
    told = _shape(tokenizer, num_labels=num_labels, **shape)
    if kind in ENCODERS:
        told = {name: value for name, value in told.items() if name not in DECODERS_ALONE}
    config = getattr(transformers, f"{kind}Config")(**told)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    _enliven(model)
    return _save(model, folder)


def _enliven(model: Any) -> None:
    """Makes fresh weights so large that attention and logits differ between texts."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(25 if "embed" in name else 10)


def make_tokenizer(folder: Path, texts: Sequence[str], special: Sequence[str] = ()) -> Any:
    """Saves a byte-level tokenizer; `special` tokens are never in a text that it decodes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT, *special],
        chat_template=CHAT_TEMPLATE,
        model_max_length=WINDOW,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _shape(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def _save(model: Any, folder: Path) -> Path:
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder
