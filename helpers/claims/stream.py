"""Claims of chapter 01_residual_stream."""
