"""How should the shallow branches take over? Linear or cosine growth of the gate, from a random or a least-squares start."""

from sweeps.axes import sweep

if __name__ == "__main__":
    sweep(__doc__ or "", gamma=("linear", "cosine"), gb_init=("random", "least-squares"), ac_after=((),))
