#!/usr/bin/env bash
# torchmetrics: two accuracies in a MetricCollection become one if the first batch does not tell them apart
#
# Versions: torchmetrics 1.9.0, torch 2.15.0
# Guess: A metric in a MetricCollection gives what it gives alone.
# Fact: After the first batch, metrics whose sums agree are taken for one (compute_groups is on by default): only the first
#   of them is updated from then on, and the others report its value. Metrics with another threshold, or another
#   ignore_index, agree whenever the first batch has no doubtful case, or no padding. compute_groups=False is right.
# Output: threshold .5 and .9: 0.625 and 0.625, alone 0.625 and 1.0; with padding and without it: 0.75 and 0.75, alone
#   0.75 and 0.5
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps lightning-utilities==0.15.3 numpy==2.5.5 packaging==26.4 torchmetrics==1.9.0 typing-extensions==4.16.0
venv/bin/python - <<'PY'
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy


def values(make, batches, **options):
    """Of each metric: in a collection, and alone."""
    together, alone = MetricCollection(make(), **options), make()
    for batch in batches:
        together.update(*batch)
        for metric in alone.values():
            metric.update(*batch)
    return [[round(float(each), 4) for each in found] for found in (
        together.compute().values(), (metric.compute() for metric in alone.values()))]


def thresholds():
    return {"likely": BinaryAccuracy(threshold=0.5), "sure": BinaryAccuracy(threshold=0.9)}


def padded():  # token 0 fills short rows
    return {"all": MulticlassAccuracy(8, average="micro"), "real": MulticlassAccuracy(8, average="micro", ignore_index=0)}


done = [(torch.tensor([0.1, 0.95, 0.2, 0.99]), torch.tensor([0, 1, 0, 1]))]  # success or not, all clear
done.append((torch.tensor([0.6, 0.7, 0.8, 0.99]), torch.tensor([0, 0, 0, 1])))
tokens = [(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 5, 6])), (torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 0]))]
found = {make.__name__: values(make, batches) for make, batches in ((thresholds, done), (padded, tokens))}
print("in a collection, alone:", found)
assert found == {"thresholds": [[0.625, 0.625], [0.625, 1.0]], "padded": [[0.75, 0.75], [0.75, 0.5]]}
together, alone = values(thresholds, done, compute_groups=False)
assert together == alone
PY
