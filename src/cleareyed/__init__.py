"""cleareyed: reinforcement learning with rule rewards for vision-language models, and a look at what it did."""

__version__ = "0.1.0"
