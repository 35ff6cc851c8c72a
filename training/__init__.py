"""The training companion: data → distil → finetune → evaluate → export → deploy, each stage alone
(`python -m training STAGE --recipe FILE`) or the whole chain (`edged train FILE`).

Heavy packages (extra `train`) are imported inside the stages that need them: reading a recipe needs none.
"""
