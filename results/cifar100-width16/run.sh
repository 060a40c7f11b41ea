#!/usr/bin/env bash
# Trains all that this directory is about, and prints what it says. Run again, it goes on where it was interrupted.
#
#     results/cifar100-width16/run.sh IMAGES RESULTS [FLAG ...]
#
# IMAGES is CIFAR-100 as an image folder (train/<class>/*.png, test/<class>/*.png), RESULTS a results directory; flags go to every
# sweep. On one GPU, `--gpus-per-stage 0.066` trains 15 stages at once.
set -euo pipefail
images=$(cd "$1" && pwd) results=$2
case $results in /* | *://*) ;; *) results=$PWD/$results ;; esac
shift 2
flags=("$@")
cd "$(dirname "$0")/../.."

sweep() {
  python sweeps/budget_sweep.py --dataset "imagefolder:$images" --image-size 16 --width 16 --selection val --storage "$results" \
    ${flags[@]+"${flags[@]}"} "$@"
}
# The paper's recipe at a tenth of its epochs: 24 for the baseline, 24 for the sensitivity, 15 for a mask, 18 of fine-tuning.
paper() { sweep --preset paper-resnet18-cifar100 --epochs-scale 0.1 "$@"; }
# Ours, with as many for the baseline and for fine-tuning: 24, 12, 12 and 18.
ours() {
  sweep --preset cifar100 --epochs-scale 0.6 --ac-after 2+3 --ac-head bottleneck --ac-init random --ac-end trained "$@"
}

# Gated branching at two thresholds and without, linear; cosine at one budget (at all of them for the first seed).
paper --seeds 0 1 2 --budgets 0.045 0.09 0.18 --d-th none 0.05 0.1 --gamma linear --ac-after 2+3
paper --seeds 0 1 2 --budgets 0.09 --d-th 0.05 0.1 --gamma cosine --ac-after 2+3
paper --seeds 0 --budgets 0.045 0.18 --d-th 0.05 0.1 --gamma cosine --ac-after 2+3
# All masks at one budget, ungated; then our best recipe, gated; and the paper's start of shallow branches beside it.
ours --seeds 0 1 2 --budgets 0.09 --d-th none --mask-method senet counterfactual snl random
ours --seeds 0 1 2 --budgets 0.045 0.09 0.18 --d-th none 0.05 0.1 --mask-method snl --gb-init least-squares --gate-epochs 0
ours --seeds 0 1 2 --budgets 0.09 --d-th 0.1 --mask-method snl --gb-init random
# Auxiliary classifiers each in a network of its own, and none.
paper --seeds 0 1 2 --budgets 0.09 --d-th 0.05 --gamma linear --ac-after none 2 3
python benchmarks/answers.py "$results" --recipe "preset == 'paper-resnet18-cifar100'" "preset == 'cifar100' and mask_method == 'snl'"
