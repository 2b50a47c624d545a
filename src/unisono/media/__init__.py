"""Sound and pictures of files: what libsndfile and FFmpeg read, also as members of archives."""
