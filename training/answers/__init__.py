"""Stage one of distillation: teachers answer prompts, and filters choose what is learned from."""
