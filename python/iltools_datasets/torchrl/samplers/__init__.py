"""Which rows come next: samplers with TorchRL's names, and those that follow envs."""
