"""`python train.py` trains on the folder flickr8k/. The model is in src/showtell/model, the recipes in recipes/."""

import sys

from showtell.cli import main

sys.argv[1:1] = ["train", "recipes/flickr8k-attention.toml"]
main()
