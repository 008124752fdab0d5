"""Claims of chapter 08_phase_change."""
