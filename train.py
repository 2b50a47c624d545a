"""Train. The body lives in `unisono.training.run`."""

from unisono.training.run import main

if __name__ == "__main__":
    main()
