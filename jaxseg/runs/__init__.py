"""Runs: training, evaluation, prediction and report of one recipe in one folder, as the command line does them."""

from jaxseg.runs.evaluation import evaluate
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.observer import Observer
from jaxseg.runs.prediction import predict
from jaxseg.runs.reporting import report
from jaxseg.runs.trainer import train

__all__ = ["Observer", "RunFolder", "evaluate", "predict", "report", "train"]
