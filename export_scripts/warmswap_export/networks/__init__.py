"""Published networks as PyTorch modules: one family per module, ``state_dict`` keys as in the published checkpoints."""
