#!/usr/bin/env bash
# The peers, beside jaxseg in one environment. --no-deps: their own pins would bring CUDA builds of torch.
set -euo pipefail
pip install -q torch==2.13.0 pyyaml tqdm scikit-learn torchmetrics
pip install -q --no-deps torchvision==0.28.0 'timm>=1.0.31,<1.1' 'segmentation-models-pytorch>=0.6,<0.7'
pip install -q --no-deps 'monai>=1.5,<1.7'
