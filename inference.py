"""Generate test items. The body lives in `unisono.inference.run`."""

from unisono.inference.run import main

if __name__ == "__main__":
    main()
