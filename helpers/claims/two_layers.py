"""Claims of chapter 05_two_layer_composition."""
