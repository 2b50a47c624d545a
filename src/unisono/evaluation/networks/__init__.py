"""Networks that metrics listen with: one small interface, a file per network, weights from the user or a package."""
