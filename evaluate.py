"""Measure generated items and write the report. The body lives in `unisono.evaluation.run`."""

from unisono.evaluation.run import main

if __name__ == "__main__":
    main()
