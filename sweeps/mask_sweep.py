"""Which ReLUs should stay? Learned masks against each other and against chance, fine-tuned without gated branching."""

from sweeps.axes import sweep

if __name__ == "__main__":
    sweep(__doc__ or "", mask_method=("senet", "counterfactual", "snl", "random"), d_th=(None,), ac_after=((),))
