"""Which K, m, T and head width?  python sweeps/search_moco.py --trials 24 --workers 2   (about 8 min on 2 cores)

He et al. (arXiv:1911.05722) take K = 65,536, m = 0.999, T = 0.07; Chen et al. (arXiv:2003.04297) a hidden layer and T = 0.2.
K stays below the training images. Judged by kNN on the validation images at one seed: --confirm 3x10 tells skill from luck.
"""

from experiments import Choice, Complement, Given, Log, Powers, Search, main

SEARCH = Search(
    name="search_moco",
    question="Which queue, momentum, temperature and head suit this data?",
    space={
        "negatives.size": Powers(128, 1024),
        "key_encoder.momentum": Complement(0.9, 0.9999),
        "loss.temperature": Log(0.03, 0.5),
        "head.hidden": Choice((), (0,)),
        "head.dim": Given("head.hidden", {(): Powers(32, 128), (0,): Powers(64, 256)}),
    },
)

if __name__ == "__main__":
    main(SEARCH)
