"""Claims of chapter 03_one_layer_skip_trigrams."""
