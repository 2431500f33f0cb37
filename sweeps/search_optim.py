"""Which learning rate, weight decay and batch?  python sweeps/search_optim.py --trials 24 --workers 2  (8 min on 2 cores)

He et al. (arXiv:1911.05722) take 0.03, 1e-4 and 256 for 200 epochs of ImageNet; a run on the digits has a few hundred steps.
Judged by kNN on the validation images at one seed: --confirm 3x10 tells skill from luck.
"""

from experiments import Log, Powers, Search, main

SEARCH = Search(
    name="search_optim",
    question="Which learning rate, weight decay and batch suit this data?",
    space={
        "optim.lr": Log(0.003, 1.0),
        "optim.weight_decay": Log(1e-5, 1e-2),
        "train.batch_size": Powers(32, 256),
    },
)

if __name__ == "__main__":
    main(SEARCH)
