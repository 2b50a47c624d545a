"""Speech made to sing by WORLD, for the corpora that are synthesised."""
