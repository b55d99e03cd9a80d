"""`python -m opensci_lib` is the console script `opensci`, inside any kernel environment."""

from opensci_lib.cli import main

if __name__ == "__main__":  # processes that a command starts read this again
    main()
