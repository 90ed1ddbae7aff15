"""Plain training loops for the studies, one for each kind of network."""

from thalweg.training.classifiers import train
from thalweg.training.language_models import train_language_model
from thalweg.training.trained import Trained

__all__ = ["Trained", "train", "train_language_model"]
