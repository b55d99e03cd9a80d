"""`python -m opensci_lib` is the console script `opensci`, inside any kernel environment."""

from opensci_lib.cli import main

main()
