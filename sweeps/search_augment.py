"""How strong an augmentation?  python sweeps/search_augment.py --trials 24 --workers 2   (about 8 min on 2 cores)

Chen et al. (arXiv:2003.04297, Table 1) gain 2.8 points by a stronger one. On the digits colours mean nothing, so crops, noise,
rotation and blur are searched; for photographs, `--baseline folder --set data.root=DIR`. Judged by validation kNN, one seed.
"""

from experiments import Choice, Float, Search, main

SEARCH = Search(
    name="search_augment",
    question="How strong an augmentation does this data bear?",
    space={
        "augment.crop_scale": Choice((0.2, 1.0), (0.4, 1.0), (0.55, 1.0), (0.75, 1.0)),
        "augment.rotation": Float(0.0, 30.0),
        "augment.noise": Float(0.0, 0.2),
        "augment.blur": Float(0.0, 0.6),
        "augment.jitter_probability": Float(0.0, 1.0),
    },
)

if __name__ == "__main__":
    main(SEARCH)
