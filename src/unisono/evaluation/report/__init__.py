"""The HTML report: tables, curves, pictures and players."""
