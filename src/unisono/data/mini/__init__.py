"""The mini corpus: small data sets made by signal synthesis alone, so that everything runs without a download."""
