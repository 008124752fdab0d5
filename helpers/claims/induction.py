"""Claims of chapter 06_two_layer_induction."""
