"""Search of hyperparameters: which values of a recipe's own keys give the best validation loss, or metric."""
