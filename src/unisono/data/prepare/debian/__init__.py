"""The Debian corpus: free recordings of Debian packages, for every task."""
