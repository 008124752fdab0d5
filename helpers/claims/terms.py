"""Claims of chapter 07_term_importance."""
