"""Stage `finetune`: the base model learns the examples, whole or through an adapter."""
