"""python -m benchmarks.serving [--device cuda] (see --help).

Every process that is started here imports this module anew: it must load nothing, or all of them would hold torch.
"""

if __name__ == "__main__":
    from benchmarks.serving.command import main

    main()
