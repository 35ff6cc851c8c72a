"""Encoders as sentence-transformers writes them: a random BERT of two layers made on the spot, and what any BERT folder
is as ONNX and as GGUF. The GGUF is written here after llama.cpp's own converter (convert_hf_to_gguf.py, BertModel)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
_POOLING = {"none": 0, "mean": 1, "cls": 2, "rank": 4}
_BLOCK = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}
_TOP = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls", "classifier": "cls.output",
}


def make_hf(
    folder: Path, *, pooling: str = "mean", normalize: bool = True, reranks: bool = False, segments: int = 2,
) -> Path:
    """config.json, model.safetensors, tokenizer, and of an embedding model modules.json with what it names. segments:
    how many kinds of tokens it tells apart."""
    _tokenizer().save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=160, initializer_range=0.3, pad_token_id=0, num_labels=1,
        type_vocab_size=segments)
    model: Any = BertForSequenceClassification(config) if reranks else BertModel(config, add_pooling_layer=False)
    model.eval().save_pretrained(folder)
    if reranks:
        return folder
    modules = MODULES if normalize else MODULES[:2]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 128, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({
        "word_embedding_dimension": 64, "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_max_tokens": pooling == "max",
        "pooling_mode_mean_sqrt_len_tokens": False,
    }))
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = (Path(__file__).parents[2] / "LICENSE").read_text()
    tokenizer.train_from_iterator([text], trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]")


def make_gguf(hf: Path, file: Path, *, pooling: str = "mean") -> Path:
    """In 32 bits. pooling: `rank` of a reranker."""
    model: Any = (AutoModelForSequenceClassification.from_pretrained(hf) if pooling == "rank" else
                  AutoModel.from_pretrained(hf, add_pooling_layer=False)).eval()
    config = model.config
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType(_POOLING[pooling]))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _write_vocabulary(writer, hf, config.vocab_size)
    writer.add_token_type_count(config.type_vocab_size)
    for name, tensor in model.state_dict().items():
        if (said := _gguf_name(name.removeprefix("bert."))) is not None:
            writer.add_tensor(said, tensor.to(torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_vocabulary(writer: gguf.GGUFWriter, hf: Path, size: int) -> None:
    """WordPiece as llama.cpp wants it: beginnings of words carry U+2581, pieces inside lose their ##."""
    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    texts, kinds = [], []
    for token in range(size):
        text = tokenizer.id_to_token(token) or f"[unused{token}]"
        if text in special or text.startswith("[unused"):
            texts.append(text)
            kinds.append(gguf.TokenType.CONTROL)
        else:
            texts.append(text[2:] if text.startswith("##") else "\u2581" + text)
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    for name, add in (("[UNK]", writer.add_unk_token_id), ("[SEP]", writer.add_sep_token_id),
                      ("[PAD]", writer.add_pad_token_id), ("[MASK]", writer.add_mask_token_id),
                      ("[CLS]", writer.add_bos_token_id)):
        known = tokenizer.token_to_id(name)
        assert known is not None
        add(known)


def _gguf_name(name: str) -> str | None:
    stem, _, part = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{part}"
    words = stem.split(".")
    if words[:2] == ["encoder", "layer"] and ".".join(words[3:]) in _BLOCK:
        return f"blk.{words[2]}.{_BLOCK['.'.join(words[3:])]}.{part}"
    return None


def reference(hf: Path, texts: list[str], *, pooling: str = "mean", normalize: bool = True) -> Any:
    """What transformers makes of each text alone: float32, shape [texts, dimensions]."""
    model = AutoModel.from_pretrained(hf, add_pooling_layer=False).eval()
    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = []
    with torch.no_grad():
        for text in texts:
            hidden = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
            one = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values}[pooling]
            found.append((one / one.norm() if normalize else one).numpy())
    return np.stack(found)


def reference_scores(hf: Path, query: str, texts: list[str]) -> Any:
    """What transformers makes of each pair alone: float32, shape [texts, 1]."""
    model = AutoModelForSequenceClassification.from_pretrained(hf).eval()
    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    found = []
    with torch.no_grad():
        for text in texts:
            pair = tokenizer.encode(query, text)
            segments = [min(one, model.config.type_vocab_size - 1) for one in pair.type_ids]
            logit = model(torch.tensor([pair.ids]), token_type_ids=torch.tensor([segments])).logits
            found.append(torch.sigmoid(logit)[0].numpy())
    return np.stack(found)
