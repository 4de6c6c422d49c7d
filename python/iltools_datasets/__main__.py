"""`python -m iltools_datasets`: the command line `iltools`."""

from iltools_datasets.cli import main

main()
