"""`python -m tutelage`, so that torchrun can start it."""

from tutelage.cli.main import main

if __name__ == "__main__":
    main()
