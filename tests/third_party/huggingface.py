"""Models of Hugging Face transformers, small and untrained, in the LightningModule that people wrap them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_dynamics.core.random_state import seed_all
from tests.kinds.kind import BATCH, SIZE, Expected, Kind, class_terms, count, integers, labelled, numbers
from tests.third_party.case import Case

WORDS, PADDING, BEGIN = 20, 0, 1
TEXT = ("input_ids", "attention_mask")


class Wrapped(lightning.LightningModule):
    """The model's own loss, of the labels in the batch."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        seed_all(0)
        self.model = make()

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self(**batch).loss
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


class WithoutForward(Wrapped):
    """As short as it can be."""

    forward = lightning.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.model(**batch).loss


# --- data: lists of dicts, padded when they are put together


def sentences() -> list[dict[str, Tensor]]:
    """Of 3 to 7 words, with a class each and a tag for every word."""
    words = integers(WORDS - 3, SIZE, 7) + 3
    lengths = 3 + integers(5, SIZE, seed=5)
    return [
        {"input_ids": w[:n], "class": w[0] % 3, "tags": w[:n] % 4} for w, n in zip(words, lengths.tolist(), strict=True)
    ]


def _padded(parts: list[dict[str, Tensor]], key: str, filling: int) -> Tensor:
    return pad_sequence([part[key] for part in parts], batch_first=True, padding_value=filling)


def texts(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    mask = pad_sequence([torch.ones_like(part["input_ids"]) for part in parts], batch_first=True)
    return {"input_ids": _padded(parts, "input_ids", PADDING), "attention_mask": mask}


def classified(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return texts(parts) | {"labels": torch.stack([part["class"] for part in parts])}


def several_labels(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    classes = torch.stack([part["class"] for part in parts])
    return texts(parts) | {"labels": torch.stack([classes > 0, classes < 2, classes == 1], 1).float()}


def tagged(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return texts(parts) | {"labels": _padded(parts, "tags", -100)}


def continued(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return texts(parts) | {"labels": _padded(parts, "input_ids", -100)}


def sentence_loader(collate: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: DataLoader(sentences(), BATCH, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


def picture_loader() -> Any:
    pictures, classes = numbers(SIZE, 3, 8, 8), labelled()[1]
    pairs = [{"pixel_values": p + c, "labels": c} for p, c in zip(pictures, classes, strict=True)]
    return DataLoader(pairs, BATCH, shuffle=True)  # type: ignore[arg-type]


def captioned_loader() -> Any:
    words = torch.cat([integers(WORDS - 3, SIZE, 5) + 3, torch.full((SIZE, 1), 2)], 1)  # 2 ends a text
    rows = [{"input_ids": w, "pixel_values": p} for w, p in zip(words, numbers(SIZE, 3, 8, 8), strict=True)]
    return DataLoader(rows, BATCH, shuffle=True)  # type: ignore[arg-type]


# --- models


def model(name: str, config: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**settings))

    return make


SMALL = {"vocab_size": WORDS, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = SMALL | {"intermediate_size": 16, "max_position_embeddings": 12}
VIT = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT |= {"image_size": 8, "patch_size": 4}
GPT2 = {"vocab_size": WORDS, "n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 12}
GPT2 |= {"bos_token_id": BEGIN, "eos_token_id": 2}
T5 = {"vocab_size": WORDS, "d_model": 12, "d_kv": 6, "d_ff": 16, "num_layers": 1, "num_heads": 2}
CLIP: dict[str, Any] = {"projection_dim": 6, "vision_config": VIT}
CLIP |= {"text_config": BERT | {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}}
BART = {"vocab_size": WORDS, "d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 12}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
BART |= {"pad_token_id": PADDING, "bos_token_id": BEGIN, "eos_token_id": 2, "decoder_start_token_id": 2}

# --- the truth


def logits_of(module: Any, batch: Any) -> Tensor:
    return module.model(**batch).logits


CLASSES_OF = class_terms(logits_of, lambda batch: batch["labels"])
TAGS_OF = class_terms(
    lambda module, batch: logits_of(module, batch)[batch["labels"] != -100],
    lambda batch: batch["labels"][batch["labels"] != -100],
)
NEXT_WORDS = class_terms(
    lambda module, batch: logits_of(module, batch)[:, :-1][batch["labels"][:, 1:] != -100],
    lambda batch: batch["labels"][:, 1:][batch["labels"][:, 1:] != -100],
)


def _label_loss(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    z, y = logits_of(module, batch), batch["labels"]
    return (z.clamp(min=0) - z * y + (-z.abs()).exp().log1p()).sum(), count(y)


def _label_correct(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return ((logits_of(module, batch) > 0) == (batch["labels"] > 0.5)).sum(), count(batch["labels"])


def _clip_loss(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """One term per batch: every text must find its picture, and every picture its text."""
    similarity = module.model(**batch).logits_per_text
    found = similarity.log_softmax(1).diagonal() + similarity.log_softmax(0).diagonal()
    return -found.mean() / 2, torch.tensor(1)


def highest(output: Any, targets: Tensor) -> Tensor:
    """One number per text to take the gradient of: its highest logits, added up over tokens."""
    scores = output.logits.amax(-1)
    return scores if scores.ndim == 1 else scores.sum(1)


class Clip(Wrapped):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(**batch, return_loss=True).loss


def adapted() -> Any:
    """BERT with its weights frozen, and adapters of low rank."""
    import peft

    # Names the parts to adapt itself: peft knows those of hub models only by their type.
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["query", "value"])
    return peft.get_peft_model(model("BertForSequenceClassification", "BertConfig", num_labels=3, **BERT)(), config)


def _case(
    kind: tuple[str, Callable[[], Any], Callable[[], Any], Expected, Any, Any],
    few: str,
    layers: tuple[str, str] | None = None,
    package: str = "transformers",
    wrap: Callable[..., Any] = Wrapped,
    embedding: str | None = None,
) -> Case:
    name, make, make_loader, *truth = kind
    by_embedding: dict[str, Any] = {"with_respect_to": embedding}
    if kind[3] is not _TEXT_CLASSES:
        by_embedding["target"] = highest
    given = {} if embedding is None else {"VoGCallback": by_embedding}
    return Case(package, lambda: Kind(name, lambda: wrap(make), make_loader, *truth), few, layers, given=given)


_TEXT_CLASSES = Expected("multiclass", "logits", inputs=TEXT, targets="labels")
_TOKENS = Expected("tokens", "logits", "tokens", inputs=TEXT, targets="labels", ignore_index=-100)
_BERT_CLASSES = model("BertForSequenceClassification", "BertConfig", num_labels=3, **BERT)
_BERT_WORDS = "model.bert.embeddings.word_embeddings"
_BERT_LAYERS = ("model.bert.pooler.dense", "model.classifier")

CASES = {
    "BERT, a class per text": _case(
        ("BERT", _BERT_CLASSES, sentence_loader(classified), _TEXT_CLASSES, *CLASSES_OF),
        "model.classifier.*",
        _BERT_LAYERS,
        embedding=_BERT_WORDS,
    ),
    "BERT, no forward": _case(
        ("BERT", _BERT_CLASSES, sentence_loader(classified), _TEXT_CLASSES, *CLASSES_OF),
        "model.classifier.*",
        _BERT_LAYERS,
        embedding=_BERT_WORDS,
        wrap=WithoutForward,
    ),
    "BERT, several labels per text": _case(
        (
            "BERT",
            model(
                "BertForSequenceClassification",
                "BertConfig",
                num_labels=3,
                problem_type="multi_label_classification",
                **BERT,
            ),
            sentence_loader(several_labels),
            Expected("multilabel", "logits", inputs=TEXT, targets="labels"),
            _label_loss,
            _label_correct,
        ),
        "model.classifier.*",
        _BERT_LAYERS,
        embedding=_BERT_WORDS,
    ),
    "BERT with LoRA (peft)": _case(
        ("LoRA", adapted, sentence_loader(classified), _TEXT_CLASSES, *CLASSES_OF),
        "*classifier.modules_to_save.default.bias",
        package="peft",
        embedding=f"model.base_{_BERT_WORDS.replace('model', 'model.model', 1)}",
    ),
    "BERT, a tag per token": _case(
        (
            "BERT",
            model("BertForTokenClassification", "BertConfig", num_labels=4, **BERT),
            sentence_loader(tagged),
            _TOKENS,
            *TAGS_OF,
        ),
        "model.classifier.*",
        embedding=_BERT_WORDS,
    ),
    "GPT-2, the next token": _case(
        ("GPT-2", model("GPT2LMHeadModel", "GPT2Config", **GPT2), sentence_loader(continued), _TOKENS, *NEXT_WORDS),
        "model.transformer.ln_f.*",
        embedding="model.transformer.wte",
    ),
    "Llama, the next token": _case(
        (
            "Llama",
            model("LlamaForCausalLM", "LlamaConfig", intermediate_size=16, **SMALL),
            sentence_loader(continued),
            _TOKENS,
            *NEXT_WORDS,
        ),
        "model.model.norm.weight",
        embedding="model.model.embed_tokens",
    ),
    "T5, sequence to sequence": _case(
        (
            "T5",
            model("T5ForConditionalGeneration", "T5Config", decoder_start_token_id=0, **T5),
            sentence_loader(tagged),
            _TOKENS,
            *TAGS_OF,
        ),
        "model.decoder.final_layer_norm.weight",
        embedding="model.encoder.embed_tokens",
    ),
    "BART, sequence to sequence": _case(
        (
            "BART",
            model("BartForConditionalGeneration", "BartConfig", **BART),
            sentence_loader(tagged),
            _TOKENS,
            *TAGS_OF,
        ),
        "model.model.decoder.layernorm_embedding.*",
        embedding="model.model.encoder.embed_tokens",
    ),
    "ViT, a class per picture": _case(
        (
            "ViT",
            model("ViTForImageClassification", "ViTConfig", num_labels=3, **VIT),
            picture_loader,
            Expected("multiclass", "logits", inputs=("pixel_values",), targets="labels"),
            *CLASSES_OF,
        ),
        "model.classifier.*",
        ("model.vit.layernorm", "model.classifier"),
    ),
    "CLIP, pairs of picture and text": _case(
        (
            "CLIP",
            model("CLIPModel", "CLIPConfig", **CLIP),
            captioned_loader,
            Expected("pairs", "logits", "batch", inputs=("input_ids", "pixel_values"), targets=None),
            _clip_loss,
            None,
        ),
        "model.logit_scale",
        wrap=Clip,
    ),
}
