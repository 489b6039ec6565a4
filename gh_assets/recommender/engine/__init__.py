"""The autoencoders' training engine: item bags, softmax over all items, optimizers, checkpoints, training run."""
