"""Claims of chapter 04_copying_and_eigenvalues."""
